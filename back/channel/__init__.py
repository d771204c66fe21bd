"""back/channel."""
