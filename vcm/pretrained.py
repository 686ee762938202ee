"""Where the models are that can be asked for by name."""

from importlib import resources
from pathlib import Path

from vcm.checkpoint import CONFIG_FILE, CheckpointError

EMBEDDED = "mini"
PUBLISHED = "brainldm"


def find_model(name: str | Path) -> Path:
    """Return the folder of a model.

    Args:
        name: "mini", which comes with the package, or a folder with the same layout.

    Raises:
        CheckpointError: there is no such model here; the sentence says how to get it.
    """
    if name == EMBEDDED:
        return _find_embedded()
    if name == PUBLISHED:
        raise CheckpointError(
            "The weights of brainldm are not fetched by this version: collect config.json, autoencoder.pth, "
            "diffusion_model.pth and vcm_weight.pt in one folder and open it with Pipeline.from_reference."
        )
    folder = Path(name)
    if not (folder / CONFIG_FILE).is_file():
        raise CheckpointError(f"There is no such model: choose {EMBEDDED}, {PUBLISHED} or a folder with {CONFIG_FILE}.")
    return folder


def _find_embedded() -> Path:
    package = Path(str(resources.files("vcm")))
    # A wheel carries the model inside the package, a clone keeps it beside the package.
    for parent in (package, package.parent):
        folder = parent / "checkpoints" / EMBEDDED
        if (folder / CONFIG_FILE).is_file():
            return folder
    raise CheckpointError(f"The model {EMBEDDED} is missing from this installation: install VCM Studio again.")
