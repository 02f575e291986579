"""Runs the notebooks as one pipeline: profiles, Snakemake, papermill, the report."""
