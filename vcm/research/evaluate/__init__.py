"""`vcm evaluate`: how well a model follows its conditions."""
