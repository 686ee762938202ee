"""Folders of subjects as people have them: in BIDS and in BraTS layout, each scan on another kind of grid."""

from pathlib import Path

import numpy as np

from vcm.data import simulate
from vcm.registration.register import build_transform
from vcm.volume import Volume

ROLES = ("t1", "t2", "flair", "tumor", "anatomy")
BRATS = {"t1": "t1c", "t2": "t2w", "flair": "t2f", "tumor": "seg"}
BIDS = {"t1": "ce-gadolinium_T1w", "t2": "T2w", "flair": "FLAIR", "tumor": "dseg", "anatomy": "desc-anatomy_dseg"}
MOVED = build_transform(np.array([25.0, -30, 50, 12, -6, 14, 0]), np.zeros(3))
"""To where a scanner saw the third subject: rotated by 9, 4 and 10 degrees, and shifted by 63 mm."""


def simulate_subjects(seeds: tuple[int, ...] = (200_005, 200_007, 200_002)) -> list[dict[str, Volume]]:
    """Subjects by role: stored as LAS, on an oblique grid, and moved out of template space."""
    subjects = []
    for index, seed in enumerate(seeds):
        made = simulate.simulate_subject(seed)
        arrays = {**made.images, "tumor": made.tumor, "anatomy": made.anatomy}
        subjects.append({role: _store(Volume(arrays[role], simulate.AFFINE), role, index % 3) for role in ROLES})
    return subjects


def _store(volume: Volume, role: str, kind: int) -> Volume:
    if kind == 0:
        mirror = np.diag([-1.0, 1, 1, 1])
        mirror[0, 3] = volume.array.shape[0] - 1
        return Volume(np.ascontiguousarray(volume.array[::-1]), volume.affine @ mirror)
    if kind == 1:
        turned = build_transform(np.array([-4.0, -6, 3, 8, -5, 11, 0]), np.zeros(3))
        return volume.to_grid((84, 116, 84), turned @ volume.affine, labels=role in ("tumor", "anatomy"))
    return Volume(volume.array, MOVED @ volume.affine)


def write_brats(root: Path, subjects: list[dict[str, Volume]]) -> Path:
    """Write `<case>/<case>-t1c.nii.gz` and so on."""
    for index, subject in enumerate(subjects):
        folder = root / f"BraTS-GLI-{index:05d}-000"
        folder.mkdir(parents=True)
        for role, name in BRATS.items():
            subject[role].save(folder / f"{folder.name}-{name}.nii.gz")
    return root


def write_bids(root: Path, subjects: list[dict[str, Volume]], anatomy: bool = True) -> Path:
    """Write scans into `sub-<name>/anat`, masks into `derivatives`, and a participants.tsv."""
    for index, subject in enumerate(subjects, start=1):
        for role, name in BIDS.items():
            if role == "anatomy" and not anatomy:
                continue
            top = root / "derivatives" / "masks" if role in ("tumor", "anatomy") else root
            folder = top / f"sub-{index:02d}" / "anat"
            folder.mkdir(parents=True, exist_ok=True)
            subject[role].save(folder / f"sub-{index:02d}_{name}.nii.gz")
    rows = ["participant_id\tage\tsex", "sub-01\t63\tM", "sub-02\tn/a\tF"]
    (root / "participants.tsv").write_text("\n".join(rows) + "\n")
    return root
