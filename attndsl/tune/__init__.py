"""Tuning: which candidates there are, which of them fit, how long they take, and data that the package brings."""
