"""The report's pages and their style."""
