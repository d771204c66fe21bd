"""What peers are told of what is new: staggered, filtered, never back to its senders."""
