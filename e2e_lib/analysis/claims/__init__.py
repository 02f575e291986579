"""What the paper claims, measured here; the reproducibility checklist."""
