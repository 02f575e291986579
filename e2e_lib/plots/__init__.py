"""One function a figure: tidy table in, matplotlib figure out. No torch, no training."""
