"""Subjects to learn from: simulated ones and those of a lab."""
