"""front/gossip."""
