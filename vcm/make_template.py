"""Make the two pictures of the template that scans are registered to, small enough to be part of the package.

Run `python -m vcm.make_template` after a change to what a simulated head looks like. It needs nilearn, which carries
the template; registering needs only what lies in `vcm/template`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vcm import simulate
from vcm.register import TEMPLATE_FOLDER
from vcm.volume import Volume


def render_templates() -> dict[str, Volume]:
    """Return the template's T1 at 2 mm in whole steps from 0 to 255: the "brain" alone, and in a simulated "head"."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    brain = image.get_fdata(dtype=np.float32)
    return {
        "brain": Volume(_in_steps(brain / brain.max()), image.affine),
        "head": Volume(_in_steps(simulate.render_template()), simulate.AFFINE),
    }


def make_templates(folder: Path = TEMPLATE_FOLDER) -> None:
    """Write them into a folder."""
    folder.mkdir(exist_ok=True)
    for kind, volume in render_templates().items():
        volume.save(folder / f"{kind}.nii.gz")


def _in_steps(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    make_templates()
