"""shared/wire."""
