"""One peer: `init` (``handshake``), where messages go (``routing``), its life (``session``)."""
