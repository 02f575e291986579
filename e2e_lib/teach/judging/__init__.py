"""What an answer to any exercise turns out to be: it is called, observed and compared."""
