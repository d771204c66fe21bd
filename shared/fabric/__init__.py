"""shared/fabric."""
