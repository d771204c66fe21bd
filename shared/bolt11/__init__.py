"""shared/bolt11."""
