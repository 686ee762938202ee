"""A mark on the left stays on the left: from any stored orientation, through the model, into the written files."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from vcm.cli import main
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.volume import Volume

ORIENTATIONS = ["RAS", "LAS", "LPS", "PIR", "SLA", "ASL"]
LEFT_MM = np.array([-34.0, -20.0, 22.0])  # RAS+: negative x is the patient's left
RADIUS_MM = 18.0


def ball_on_the_left(shape: tuple[int, ...], affine: np.ndarray, center: np.ndarray, radius: float) -> np.ndarray:
    """A tumor label map: a ball of edema, an enhancing one inside, a necrotic core inside that."""
    voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(voxels @ affine[:3, :3].T + affine[:3, 3] - center, axis=-1)
    return np.select([distance <= share * radius for share in (0.5, 0.75, 1.0)], [1, 3, 2], 0).astype(np.uint8)


def write_as(labels: np.ndarray, affine: np.ndarray, axcodes: str, path: Path) -> Path:
    """Store the same volume with its axes in another order and direction, by nibabel alone."""
    transform = ornt_transform(nib.orientations.io_orientation(affine), axcodes2ornt(axcodes))
    stored = nib.orientations.apply_orientation(labels, transform)
    image = nib.Nifti1Image(stored, affine @ inv_ornt_aff(transform, labels.shape))
    assert "".join(nib.aff2axcodes(image.affine)) == axcodes
    nib.save(image, path)
    return path


def center_mm(weights: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The weighted center of an array, in mm."""
    voxels = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"), axis=-1)
    center = (voxels * weights[..., None]).sum(axis=(0, 1, 2)) / weights.sum()
    return affine[:3, :3] @ center + affine[:3, 3]


@pytest.mark.parametrize("axcodes", ORIENTATIONS)
def test_the_same_mask_in_any_orientation_gives_the_same_bits(tiny_model, axcodes, tmp_path):
    pipeline = Pipeline(tiny_model)
    center = np.array([-8.0, 4.0, 2.0])
    labels = ball_on_the_left(pipeline.grid.shape, pipeline.grid.affine, center, radius=6.0)
    path = write_as(labels, pipeline.grid.affine, axcodes, tmp_path / "mask.nii.gz")
    uploaded = Volume.load(path, labels=True)
    result = pipeline(GenerationRequest({"tumor": uploaded}, num_inference_steps=2))
    direct = pipeline(GenerationRequest({"tumor": Volume(labels, pipeline.grid.affine)}, num_inference_steps=2))
    np.testing.assert_array_equal(result.conditions["tumor"].array, labels)
    np.testing.assert_array_equal(result.controlled.array, direct.controlled.array)


@pytest.mark.parametrize("axcodes", ["RAS", "LAS", "LPS", "SLA"])
def test_a_tumor_drawn_on_the_left_is_generated_and_written_on_the_left(axcodes, tmp_path):
    # A mask on a grid of its own: 1 mm voxels, another field of view.
    affine = np.array([[1.0, 0, 0, -90], [0, 1, 0, -126], [0, 0, 1, -72], [0, 0, 0, 1]])
    labels = ball_on_the_left((181, 217, 181), affine, LEFT_MM, RADIUS_MM)
    mask = write_as(labels, affine, axcodes, tmp_path / "mask.nii.gz")
    arguments = [
        "--condition",
        f"tumor={mask}",
        "--steps",
        "20",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    with pytest.raises(SystemExit) as exit_:
        main(["generate", *arguments])
    assert exit_.value.code == 0

    written = {
        name: nib.load(tmp_path / f"{name}.nii.gz") for name in ("controlled", "uncontrolled", "condition_tumor")
    }
    condition = written["condition_tumor"]
    drawn = np.asarray(condition.dataobj)
    np.testing.assert_allclose(center_mm(drawn > 0, condition.affine), LEFT_MM, atol=1.0)
    controlled, uncontrolled = (written[name].get_fdata() for name in ("controlled", "uncontrolled"))
    np.testing.assert_allclose(written["controlled"].affine, condition.affine)
    change = np.abs(controlled - uncontrolled)
    there = drawn > 0
    # Whatever the strength of the model: it changed the brain where it was drawn on, and not on the other side.
    assert change[there].mean() > 3 * change[there[::-1]].mean()


def test_the_autoencoder_keeps_a_mark_where_it_is():
    pipeline = Pipeline.from_pretrained("mini", device="cpu")
    shape, affine = pipeline.grid.shape, pipeline.grid.affine
    mark = ball_on_the_left(shape, affine, LEFT_MM, RADIUS_MM) > 0
    healthy = pipeline(GenerationRequest(num_inference_steps=6)).controlled.array
    marked = np.where(mark, 0.95, healthy).astype(np.float32)
    change = np.abs(pipeline.reconstruct(marked) - pipeline.reconstruct(healthy))
    change[change < 0.5 * change.max()] = 0.0
    # Within a latent cell of 8 mm; on a wrong side it would be 68 mm off.
    np.testing.assert_allclose(center_mm(change, affine), LEFT_MM, atol=8.0)
