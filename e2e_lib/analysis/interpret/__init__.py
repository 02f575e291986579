"""What a latent stands for: explained, scored, shown, compared with the truth."""
