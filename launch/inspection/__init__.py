"""What launch.inspect shows, and in which form."""
