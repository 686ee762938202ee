"""Model folders: read, verified, published, shared."""
