"""back/signer."""
