"""VCM Studio: controlled synthesis of 3-D brain MRI with a volumetric conditioning module."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vcm.errors import VolumeError
    from vcm.model.vcm import VCM
    from vcm.pipeline import Pipeline
    from vcm.request import GenerationRequest, GenerationResult
    from vcm.volume import Volume

__version__ = "0.1.0"
__all__ = ["VCM", "GenerationRequest", "GenerationResult", "Pipeline", "Volume", "VolumeError"]

_HOMES = {
    "VCM": "vcm.model.vcm",
    "GenerationRequest": "vcm.request",
    "GenerationResult": "vcm.request",
    "Pipeline": "vcm.pipeline",
    "Volume": "vcm.volume.volume",
    "VolumeError": "vcm.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import vcm` costs nothing (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
