"""What goes in: language models, text, rows of tokens, SAEs of others."""
