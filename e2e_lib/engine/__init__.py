"""The same arithmetic, fast and safe; it defines nothing."""
