"""back/graph."""
