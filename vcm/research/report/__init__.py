"""Figures, tables and cards, made from measured results."""
