"""What every other package may use, and knows none of them. Internal."""
