"""`vcm benchmark`: speed beside quality."""
