"""front/peer."""
