"""Scans that lie elsewhere, brought to template space, and results brought back."""
