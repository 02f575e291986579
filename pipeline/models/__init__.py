"""Language models that are fetched rather than shipped."""
