"""Lessons, their figures and the guided tour."""
