"""The evidence: our VCM beside its rivals on one frozen backbone, with the same data, weights of regions and steps."""
