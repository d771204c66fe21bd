"""back/payment."""
