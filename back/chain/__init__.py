"""back/chain."""
