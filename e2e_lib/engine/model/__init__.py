"""The frozen model: rebuilt for speed, run with hooks, looked at."""
