"""Exact counterfactual pairs: what a dictionary does with single decisions of the generator."""
