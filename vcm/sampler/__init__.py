"""The denoising trajectory and its solvers."""

from vcm.sampler.sampling import Step, initial_noise, sample, trajectory

__all__ = ["Step", "initial_noise", "sample", "trajectory"]
