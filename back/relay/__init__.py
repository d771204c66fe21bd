"""back/relay."""
