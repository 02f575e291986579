"""What a figure shows here: one sentence, computed from the table that was drawn.

A module a group of notebooks. Every function takes tables and returns a sentence, without its
"Here:" (`plots.page.Page.figure`); where a number is unknown, it says which. No torch.
"""
