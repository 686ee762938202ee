"""Sessions, files, the worker, and what the server refuses."""
