"""Volumes as pictures: slices and surfaces."""
