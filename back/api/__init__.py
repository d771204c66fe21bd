"""back/api."""
