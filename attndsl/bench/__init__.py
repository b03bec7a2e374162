"""Measurements: workloads, the clock, and what others compute for the same spec."""
