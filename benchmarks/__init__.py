"""What a training step costs, by the clock: `make bench`."""
