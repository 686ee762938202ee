"""Prepare the template once: the maps that subjects are simulated from, and the pictures that scans are registered to.

Run `python -m vcm.data.make_template` after a change to what a simulated head looks like. It needs nilearn, which
carries the template; simulating and registering need only what lies in
`vcm/data/template`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from vcm.data import simulate
from vcm.registration.register import TEMPLATE_FOLDER
from vcm.volume import Volume

_HEAD_REACH_MM = 30.0
"""Skull and scalp end at half of it."""
_WIDENING_REACH_MM = 35.0
"""Beyond, wider ventricles move nothing: exp(-(35 / 12)^2) of the displacement is left."""


def render_templates() -> dict[str, Volume]:
    """Return the template's T1 at 2 mm in whole steps from 0 to 255: the "brain" alone, and in a simulated "head"."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=2)
    brain = image.get_fdata(dtype=np.float32)
    return {
        "brain": Volume(_in_steps(brain / brain.max()), image.affine),
        "head": Volume(_in_steps(simulate.render_template()), simulate.AFFINE),
    }


def prepare_maps() -> dict[str, NDArray[np.generic]]:
    """Return what `vcm.data.simulate` reads, of nilearn's MNI152 template.

    - `tissue`: uint8 (4, 184, 248, 184), shares of gray matter, white matter, ventricles, and of these and CSF, at
      1 mm, in steps of 1 / `simulate.TISSUE_STEPS`.
    - `head_distance`: uint8 (184, 248, 184), from the inner table of the skull, in halves of a millimetre, up to 30.
    - `ventricle_distance`, float16 (80, 112, 80) in mm, and `ventricle_direction`, int8 (3, 80, 112, 80), its gradient
      times 127: signed, on the 2 mm grid, as far as widening ventricles reach.
    """
    from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template

    image = load_mni152_template(resolution=1)
    start = np.round(simulate.TEMPLATE_CORNER_MM - image.affine[:3, 3]).astype(int)

    def crop(volume: NDArray[np.float32]) -> NDArray[np.float32]:
        # Edge padding lets the brain stem run out of the field of view, as it does in a scan.
        sizes = zip(start, simulate.TEMPLATE_SHAPE, volume.shape, strict=True)
        pad = [(max(0, -s), max(0, s + n - size)) for s, n, size in sizes]
        padded = np.pad(volume.astype(np.float32), pad, mode="edge")
        first = start + [before for before, _ in pad]
        return padded[tuple(slice(f, f + n) for f, n in zip(first, simulate.TEMPLATE_SHAPE, strict=True))]

    t1 = crop(image.get_fdata(dtype=np.float32))
    gm = crop(load_mni152_gm_template(resolution=1).get_fdata(dtype=np.float32))
    wm = crop(load_mni152_wm_template(resolution=1).get_fdata(dtype=np.float32))
    brain = ndimage.binary_fill_holes(t1 > 0.05)
    gm, wm = gm * brain, wm * brain
    csf = np.clip(brain - gm - wm, 0, 1)

    depth = ndimage.distance_transform_edt(brain)
    parts, count = ndimage.label((csf > 0.5) & (depth > 18))
    sizes = ndimage.sum_labels(np.ones_like(parts), parts, np.arange(1, count + 1))
    lateral = np.isin(parts, np.argsort(sizes)[-2:] + 1)
    # The threshold left a partial-volume rim outside; it belongs to the ventricles as well.
    ventricles = csf * ndimage.binary_dilation(lateral, iterations=2)

    # The inner table of the skull follows the brain without its sulci.
    inner_table = ndimage.gaussian_filter(brain.astype(np.float32), 4) > 0.4
    inner_table |= brain
    csf = np.maximum(csf, inner_table & ~brain)
    head_distance = ndimage.distance_transform_edt(~inner_table).astype(np.float32)

    # Trilinear sampling at 2 mm of maps at 1 mm would alias without this.
    tissue = np.stack([ndimage.gaussian_filter(each, 0.6) for each in (gm, wm, ventricles, gm + wm + csf)])
    distance_mm = ndimage.gaussian_filter(head_distance, 0.6).clip(0, _HEAD_REACH_MM)
    signed = ndimage.distance_transform_edt(~lateral) - ndimage.distance_transform_edt(lateral)
    signed = ndimage.gaussian_filter(signed.astype(np.float32), 2.0)
    direction = np.stack(np.gradient(signed)) * (np.abs(signed) < _WIDENING_REACH_MM)
    margin = (simulate.TEMPLATE_SHAPE[0] - 2 * simulate.SHAPE[0]) // 2
    halve = tuple(slice(margin, margin + 2 * n, 2) for n in simulate.SHAPE)
    return {
        "tissue": np.rint(tissue.clip(0, 1) * simulate.TISSUE_STEPS).astype(np.uint8),
        "head_distance": np.rint(distance_mm * simulate.HEAD_DISTANCE_STEPS_A_MM).astype(np.uint8),
        "ventricle_distance": signed[halve].clip(-_WIDENING_REACH_MM, _WIDENING_REACH_MM).astype(np.float16),
        "ventricle_direction": np.rint(direction[(slice(None), *halve)].clip(-1, 1) * 127).astype(np.int8),
    }


def make_templates(folder: Path = TEMPLATE_FOLDER) -> None:
    """Write all of it into a folder."""
    folder.mkdir(exist_ok=True)
    np.savez_compressed(folder / simulate.TEMPLATE_FILE.name, **prepare_maps())  # type: ignore[arg-type]
    for kind, volume in render_templates().items():
        volume.save(folder / f"{kind}.nii.gz")


def _in_steps(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


if __name__ == "__main__":
    make_templates()
