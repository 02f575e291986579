"""How stages are run, and what need not run again."""
