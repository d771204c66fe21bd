"""shared/crypto."""
