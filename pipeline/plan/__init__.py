"""What a profile runs: its keys, its grid, its stages."""
