"""What futures say, and how good that is."""
