"""front/keys."""
