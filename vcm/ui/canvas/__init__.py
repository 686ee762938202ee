"""The three-plane canvas: the editor and the viewer of slices."""
