"""End-to-end sparse dictionary learning (Braun et al. 2024): train, evaluate, analyse SAEs."""

__version__ = "0.1.0"
