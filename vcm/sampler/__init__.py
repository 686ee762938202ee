"""The denoising trajectory and its solvers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcm.sampler.sampling import Step, initial_noise, sample, trajectory

__all__ = ["Step", "initial_noise", "sample", "trajectory"]


def __getattr__(name: str) -> Any:
    """Import what samples when it is first used: the registry of solvers beside it needs no torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("vcm.sampler.sampling"), name)
