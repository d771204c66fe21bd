"""back/storage."""
