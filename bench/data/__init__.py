"""What reading data costs."""
