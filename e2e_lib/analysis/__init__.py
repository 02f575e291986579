"""One module a question: tables and tensors in, tidy tables out."""
