"""The node key's part of a handshake: asked of a back (``remote``), or done here (``local``)."""
