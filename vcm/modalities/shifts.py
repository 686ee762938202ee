"""How real scans differ from simulated ones: shifts that are drawn far wider than any real range.

A network that has seen only simulated heads works on real ones if what it reads was randomised in training (domain
randomisation; Billot et al. 2023, SynthSeg; Iglesias et al. 2023, SynthSR). The target stays the simulated image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from vcm.modalities.base import SubjectView
from vcm.modalities.intensity import Landmarks, find_interior, measure_landmarks

UNSHIFTED_SHARE = 0.25
"""How often a scan is left as it was simulated, so that the simulated ones are learned at least as well."""

STRIPPED_SHARE = 1 / 3
"""How often a scan shows the brain alone, as those of a lab often do."""

_TISSUE_DEVIATION = {"t1": 0.03, "t2": 0.08, "flair": 0.08}
"""Of the intensity of each tissue, in [0, 1]; T1 keeps its order of tissues, or it would be no T1."""
_LESION_DEVIATION = 0.08
_GAMMA_DEVIATION = 0.2  # of its logarithm
_BIAS_DEVIATION = 0.07  # of the logarithm, for each of nine polynomials
_LARGEST_BIAS = 0.4
_BLUR_SHARE, _LARGEST_BLUR = 0.3, 0.9  # voxels
_NOISE_SHARE, _LARGEST_NOISE = 0.6, 0.05
_VESSEL_SHARE, _MOST_VESSELS = 0.3, 12
_VESSEL_STEPS = (10, 50)
_CUT_SHARE, _LARGEST_CUT = 0.15, 0.25  # of an axis: a field of view that ends inside the head
_SOFTNESS = 0.6  # voxels: tissues go over into each other


@dataclass(frozen=True, eq=False)
class Shift:
    """What one scan does differently; see `draw_shift`."""

    tissues: NDArray[np.float32]  # by anatomy label, the background first
    lesion: float
    gamma: float
    bias: NDArray[np.float32]
    blur: float
    noise: float
    vessels: int
    cut: tuple[int, float, bool] | None  # axis, share of it, at its end
    is_stripped: bool

    def change_intensities(self, view: SubjectView, contrast: str) -> NDArray[np.float32]:
        """Return a view's image with other intensities, voxel by voxel, from 0 on."""
        image = view.image(contrast)
        if self.tissues.any() or self.lesion:
            anatomy, tumor = view.anatomy, view.tumor
            offset = self.tissues[anatomy]
            offset[tumor > 0] = self.lesion
            image += ndimage.gaussian_filter(offset, _SOFTNESS)
        np.power(image.clip(0.0, None), np.float32(self.gamma), out=image)
        if self.bias.any():
            image *= np.exp(_bias_field(self.bias, view.coordinates()))
        return image

    def cut_away(self, image: NDArray[np.float32], view: SubjectView) -> NDArray[np.float32]:
        """Return a view's image with 0 where the scan shows nothing."""
        if self.is_stripped:
            image = strip_skull(image, view.anatomy, view.tumor)
        if self.cut is not None:
            axis, share, at_end = self.cut
            places = (view.coordinates()[axis] + 1) / 2
            cut = places > 1 - share if at_end else places < share
            image = np.where(cut, np.float32(0), image)
        return image


def draw_shift(contrast: str, random: torch.Generator) -> Shift:
    """Draw what a scan of a contrast does differently from a simulated one."""

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=random))

    def normal(deviation: float, *size: int) -> NDArray[np.float32]:
        drawn: NDArray[np.float32] = torch.randn(size or (1,), generator=random).numpy()
        return drawn * np.float32(deviation)

    is_stripped = uniform(0.0, 1.0) < STRIPPED_SHARE
    if uniform(0.0, 1.0) < UNSHIFTED_SHARE:
        nothing = np.zeros(5, np.float32)
        return Shift(nothing, 0.0, 1.0, np.zeros(9, np.float32), 0.0, 0.0, 0, None, is_stripped)
    tissues = normal(_TISSUE_DEVIATION[contrast], 5)
    tissues[0] = 0.0
    cut = None
    if uniform(0.0, 1.0) < _CUT_SHARE:
        cut = (int(uniform(0.0, 3.0)) % 3, uniform(0.02, _LARGEST_CUT), uniform(0.0, 1.0) < 0.5)
    return Shift(
        tissues=tissues,
        lesion=float(normal(_LESION_DEVIATION)[0]),
        gamma=float(np.exp(normal(_GAMMA_DEVIATION)[0])),
        bias=normal(_BIAS_DEVIATION, 9),
        blur=uniform(0.3, _LARGEST_BLUR) if uniform(0.0, 1.0) < _BLUR_SHARE else 0.0,
        noise=uniform(0.0, _LARGEST_NOISE) if uniform(0.0, 1.0) < _NOISE_SHARE else 0.0,
        vessels=int(uniform(1.0, _MOST_VESSELS)) if uniform(0.0, 1.0) < _VESSEL_SHARE else 0,
        cut=cut,
        is_stripped=is_stripped,
    )


def shift_scan(
    view: SubjectView, contrast: str, random: torch.Generator, thicken: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Return a scan of a view as a user's would arrive, float32 in [0, 1]: shifted, then scaled by its brain.

    Args:
        contrast: "t1", "t2" or "flair".
        thicken: voxels in a thick slice, and the offset of the first one, see `thicken_slices`.
    """
    shift = draw_shift(contrast, random)
    landmarks = _find_landmarks(view, contrast, shift)
    image = shift.change_intensities(view, contrast)
    image = _draw_vessels(image, shift.vessels, landmarks.percentiles[-1], random)
    if shift.blur:
        image = ndimage.gaussian_filter(image, shift.blur)
    if thicken is not None:
        image = thicken_slices(image, *thicken)
    if shift.noise:
        noise = torch.randn(image.shape, generator=random).numpy()
        image = (image + np.float32(shift.noise) * noise).clip(0.0, None)
    return landmarks.scale(shift.cut_away(image, view), contrast)


def _find_landmarks(view: SubjectView, contrast: str, shift: Shift) -> Landmarks:
    """Return the landmarks of the whole shifted scan; blur and noise hardly move them."""
    coarse = view.coarse()
    image = shift.cut_away(shift.change_intensities(coarse, contrast), coarse)
    region = find_interior(view.shape, view.affine)[coarse.window]
    return measure_landmarks(image, region)


def _bias_field(weights: NDArray[np.float32], coordinates: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the logarithm of a smooth field, from polynomials up to the second order."""
    x, y, z = coordinates
    terms = (x, y, z, x * x, y * y, z * z, x * y, x * z, y * z)
    field = sum((weight * term for weight, term in zip(weights, terms, strict=True)), np.zeros(1, np.float32))
    return np.asarray(field, np.float32).clip(-_LARGEST_BIAS, _LARGEST_BIAS)


def _draw_vessels(image: NDArray[np.float32], count: int, white: float, random: torch.Generator) -> NDArray[np.float32]:
    """Return an image with thin bright curves, up to four times as bright as white matter, as contrast agents make."""
    if not count:
        return image
    image = image.copy()
    shape = np.array(image.shape)
    for _ in range(count):
        steps = int(torch.randint(*_VESSEL_STEPS, (1,), generator=random))
        drawn = torch.randn((steps, 3), generator=random).numpy()
        start = torch.rand(3, generator=random).numpy() * shape
        direction = np.cumsum(0.25 * drawn, axis=0) + 2 * drawn[:1]
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        places = np.rint(start + np.cumsum(0.8 * direction, axis=0)).astype(int)
        inside = places[((places >= 0) & (places < shape)).all(axis=1)]
        brightness = white * float(1.2 + 2.8 * torch.rand(1, generator=random))
        image[tuple(inside.T)] = np.float32(brightness)
    return image


def strip_skull(
    image: NDArray[np.float32], anatomy: NDArray[np.uint8], tumor: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """Return an image (X, Y, Z) in which only the brain is left, by the labels; as it is where they show none."""
    brain = (anatomy > 0) | (tumor > 0)
    return np.where(brain, image, np.float32(0)) if brain.any() else image


def thicken_slices(image: NDArray[np.float32], factor: int, offset: int = 0) -> NDArray[np.float32]:
    """Return what linear interpolation makes of thick axial slices of an image, (X, Y, Z).

    Each thick slice is the mean of `factor` slices; the first one begins `offset` slices below the image.
    """
    depth = image.shape[2]
    behind = -(depth + offset) % factor
    padded = torch.nn.functional.pad(
        torch.from_numpy(image)[None, None], (offset, behind, 0, 0, 0, 0), mode="replicate"
    )  # (1, 1, X, Y, Z')
    thick = torch.nn.functional.avg_pool3d(padded, kernel_size=(1, 1, factor))
    smooth = torch.nn.functional.interpolate(thick, size=padded.shape[2:], mode="trilinear", align_corners=False)
    return smooth[0, 0, :, :, offset : offset + depth].numpy()


def draw_uniform(random: torch.Generator, low: float, high: float) -> float:
    """Return a number between the two."""
    return low + (high - low) * float(torch.rand(1, generator=random))
