"""Two results folders, number by number."""
