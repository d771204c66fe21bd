"""What this front asks of peers, so that its table lacks nothing."""
