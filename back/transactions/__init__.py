"""back/transactions."""
