"""Rewritings of expressions, one to a file. Each keeps the value exactly, for every environment."""
