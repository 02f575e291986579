"""What comes out: run folders and the tables made of them."""
