"""The conditions: what a user gives, and the tensor that a VCM reads."""
