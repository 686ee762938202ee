"""Where the models are that can be asked for by name."""

import os
from importlib import resources
from pathlib import Path

from vcm.weights.checkpoint import CONFIG_FILE, CheckpointError

EMBEDDED = "mini"
PUBLISHED = "brainldm"
WEIGHTS_VARIABLE = "VCM_WEIGHTS"

HOW_TO_GET_PUBLISHED = (
    "brainldm needs the VCM that its authors share by hand: download vcm_wegith_complexSemantics.pt from their shared "
    f"drive and name it with --vcm-weights FILE or the variable {WEIGHTS_VARIABLE}; the backbone (2.3 GB) then comes "
    "from the hub by itself."
)


def find_model(name: str | Path) -> Path:
    """Return the folder of a model.

    Args:
        name: "mini", which comes with the package; "brainldm", whose backbone is fetched from the hub when it is first
            asked for, and which has no VCM of its own; or a folder with the same layout.

    Raises:
        CheckpointError: there is no such model here; the sentence says how to get it.
    """
    if name == EMBEDDED:
        return _find_embedded()
    if name == PUBLISHED:
        from vcm.weights.published import open_backbone

        return open_backbone()
    folder = Path(name)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"There is no such model: choose {EMBEDDED}, {PUBLISHED} or a folder with {CONFIG_FILE}.")
    return folder


def find_vcm_weights(name: str | Path, given: str | Path | None = None) -> str | Path | None:
    """Return where the VCM of a model is, if not in its folder: what was given, or VCM_WEIGHTS for "brainldm".

    Raises:
        CheckpointError: the model is "brainldm" and no VCM was named; the sentence says how to get it.
    """
    if given is not None:
        return given
    if name != PUBLISHED:
        return None
    weights = os.environ.get(WEIGHTS_VARIABLE)
    if not weights:
        raise CheckpointError(HOW_TO_GET_PUBLISHED)
    return weights


def _find_embedded() -> Path:
    package = Path(str(resources.files("vcm")))
    # A wheel carries the model inside the package, a clone keeps it beside the package.
    for parent in (package, package.parent):
        folder = parent / "checkpoints" / EMBEDDED
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise CheckpointError(f"The model {EMBEDDED} is missing from this installation: install VCM Studio again.")
