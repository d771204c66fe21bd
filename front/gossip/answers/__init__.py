"""What peers ask for, and how it is sent: queries, filters, a little at a time."""
