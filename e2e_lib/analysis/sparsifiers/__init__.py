"""Objective × sparsifier at equal L0: which of the two matters more?"""
