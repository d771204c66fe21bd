"""front/transport."""
