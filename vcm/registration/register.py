"""A scan that lies elsewhere, brought to template (MNI) space: rotation, shift and one scale, coarse to fine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from skimage.transform import downscale_local_mean

from vcm.errors import VolumeError
from vcm.modalities.image_conditions import measure_range, scale_intensities
from vcm.modalities.registry import get_modality, list_by_precedence
from vcm.modalities.scans import read_values
from vcm.model.config import Grid
from vcm.registration.placement import as_placement, lay_on, move, move_along
from vcm.request import GenerationRequest, Placement
from vcm.volume import Volume
from vcm.volume.affines import Affine

TEMPLATE_FOLDER = Path(__file__).parents[1] / "data" / "template"
"""What `vcm.data.make_template` made of the MNI ICBM 152 template."""

TOLERANCE_MM = 12.0
"""How far the brain's surface may lie from the template's for a scan to be in its place: heads differ by less."""
FOUND = 0.65
"""The least correlation with the template at which a registration is accepted."""

_SPACING_MM = 4.0  # of what is compared: finer would take longer and, at 7 parameters, place no better
_COARSE_MM = 8.0
_FINE_ENOUGH = 4  # voxels along an edge of what they are averaged over
_BRAIN_LEVEL = 0.05  # of the template, which is 0 around the brain
_MARGIN_MM = {"brain": 8.0, "head": 24.0}  # around the brain: its border says most, and so does the scalp's
_HEAD_MM = 155.0  # from the crown down: what lies below is neck, of which scans hold more or less
_LEVER_MM = 80.0  # a brain's radius: a unit of every parameter moves its surface by about a millimetre
_MOST_SCALING = 1.35
_LARGEST_BRAIN_ML = 2400.0  # with its fluid; a head is far larger
_TILTS = (0.0, -0.35, 0.35)  # radians about the left-right axis: how heads lie in scanners, beside straight
_AIR_LEVEL = 0.15  # of the brightest: darker voxels are air


_ABOUT_AS_LIKE = 0.05
_TAKEN_AS_IT_LIES = (
    "It has not the grid of the scan that was moved, so it was taken to lie in template space; if it belongs to that "
    "scan, bring it to its grid."
)


@dataclass(frozen=True)
class Registration:
    """Where a scan belongs: a transform of the world, (4, 4) mm to mm, and how alike it then is to the template."""

    transform: Affine
    likeness: float

    @property
    def moved_mm(self) -> float:
        """How far the brain's surface moves at most."""
        points = brain_surface()
        return float(
            np.linalg.norm(points @ (self.transform[:3, :3] - np.eye(3)).T + self.transform[:3, 3], axis=1).max()
        )

    @property
    def rigid(self) -> Registration:
        """The same without its scale, so that a head keeps its size; the middle of the brain goes where it went."""
        center = brain_surface().mean(axis=0)
        before = np.linalg.solve(self.transform, np.append(center, 1.0))[:3]
        rigid = np.eye(4)
        rigid[:3, :3] = self.transform[:3, :3] / np.cbrt(np.linalg.det(self.transform[:3, :3]))
        rigid[:3, 3] = center - rigid[:3, :3] @ before
        return Registration(rigid, self.likeness)


def place_in_template(scan: Volume) -> Registration:
    """Return how a T1 comes to template space: as it lies, where that is near enough, else by registration.

    What counts is what the scan shows: headers name spaces that the voxels are not in.

    Args:
        scan: T1-weighted, of a head or of a brain cut out of one, roughly upright by its affine.

    Raises:
        VolumeError: no place was found where it is like the template.
    """
    found = register(scan)
    if found.likeness < FOUND:
        raise VolumeError(
            f"It could not be placed in template space (likeness {found.likeness:.2f}, at least {FOUND} is expected): "
            "a T1 of a whole head or brain is expected, upright by its affine."
        )
    return found if found.moved_mm > TOLERANCE_MM else Registration(np.eye(4), measure_likeness(scan, np.eye(4)))


class Placed(NamedTuple):
    """A scan in template space, how it came there (None where it lay there), and what has to be said of that."""

    volume: Volume
    placement: Placement | None
    notes: tuple[str, ...]


def place_head(name: str, scan: Volume, known: Iterable[Placement | None] = ()) -> Placed:
    """Bring a scan to template space by what it shows: headers name spaces that the voxels are not in.

    It is rotated and shifted but keeps its size: the model was trained on heads of many sizes.

    Args:
        name: of the image condition that it is for.
        scan: of a head, or of a brain cut out of one, on any grid; an image of anything else stays where it lies.
        known: how other scans of the same session were moved, None for one that stayed; one that fits is taken, so that
            they stay together.
    """
    image = Volume(scale_intensities(scan.array, measure_range(scan.array)), scan.affine)
    found = register(image)
    is_head = found.likeness >= FOUND
    notes = (get_modality(name).stripped_note,) if is_head and is_stripped(image) else ()
    rigid = found.rigid
    least = measure_likeness(image, rigid.transform) - _ABOUT_AS_LIKE
    for together in known:
        if measure_likeness(image, np.eye(4) if together is None else np.array(together)) > least:
            told = () if together is None else ("It was moved with the other scan.",)
            return Placed(move(scan, together), together, (*notes, *told))
    if not is_head:
        return Placed(scan, None, ("It is not like a head of the template, so it was taken as it lies.",))
    if rigid.moved_mm <= TOLERANCE_MM:
        return Placed(scan, None, notes)
    placement = as_placement(rigid.transform)
    moved = f"It lay up to {rigid.moved_mm:.0f} mm off template space and was moved there; its files go back."
    return Placed(move(scan, placement), placement, (*notes, moved))


def place_request(request: GenerationRequest) -> GenerationRequest:
    """Bring the scans of a request to template space, and the masks that lie on their grids with them.

    Its volumes' notes tell what was found and done; the files of its result go back to where the scan lay that it is
    to agree with, the partial one or that of thick slices, else the first.

    Raises:
        VolumeError: a scan is none.
    """
    moved: dict[str, Placed] = {}
    conditions = dict(request.conditions)
    for name, volume in request.conditions.items():
        if get_modality(name).kind == "image":
            scan, notes = read_values(name, volume)
            moved[name] = placed = place_head(name, scan, [each.placement for each in moved.values()])
            conditions[name] = replace(placed.volume, notes=volume.notes + notes + placed.notes)
    if not moved:
        return request

    scans = [(placed.volume, placed.placement) for placed in moved.values()]
    conditions |= {n: _place_mask(mask, scans) for n, mask in request.conditions.items() if n not in moved}
    fill = None if request.fill is None else _place_mask(request.fill, scans)
    followed = next(iter([*reversed(list_by_precedence(moved)), *moved]))
    return replace(request, conditions=conditions, fill=fill, placement=moved[followed].placement)


def _place_mask(mask: Volume, scans: Sequence[tuple[Volume, Placement | None]]) -> Volume:
    """Return a mask moved with its scan; one of no scan's grid stays, which is said where a scan did not."""
    has_moved = any(placement is not None for _, placement in scans)
    if has_moved and not any(lay_on(mask, *scan) for scan in scans):
        return replace(mask, notes=(*mask.notes, _TAKEN_AS_IT_LIES))
    return move_along(mask, scans)


def is_stripped(scan: Volume) -> bool:
    """Tell whether a scan of a head shows a brain that was cut out of it."""
    return _judge_kind(_shrink(scan, _COARSE_MM)) == "brain"


def measure_likeness(scan: Volume, transform: Affine) -> float:
    """Return the correlation, -1 to 1, of a moved scan and the template in and around the brain, both at 8 mm."""
    small = _shrink(scan, _COARSE_MM)
    return _correlate(small, transform, *_template_points(_judge_kind(small), _COARSE_MM))


def register(scan: Volume) -> Registration:
    """Find the rotation, shift and scale that make a T1 most like the template, from the middle of its head."""
    coarse, fine = _shrink(scan, _COARSE_MM), _shrink(scan, _SPACING_MM)
    kind = _judge_kind(coarse)
    center = _solid_center(coarse)
    start = np.zeros(7)
    start[:3] = _solid_center(_shrink(template(kind), _COARSE_MM)) - center
    tries = []
    for tilt in _TILTS:
        start[3] = tilt * _LEVER_MM
        tries.append(_climb(coarse, start, center, _template_points(kind, _COARSE_MM), _COARSE_MM, steps=8))
    best = min(tries, key=lambda found: found.fun)
    best = _climb(fine, best.x, center, _template_points(kind, _SPACING_MM), _SPACING_MM, steps=4)
    transform = build_transform(best.x, center)
    return Registration(transform, measure_likeness(scan, transform))


@lru_cache(maxsize=2)
def template(kind: str) -> Volume:
    """Return the template's T1 at 2 mm in [0, 1], of the "brain" alone, or with a simulated "head" around it."""
    steps = Volume.load(TEMPLATE_FOLDER / f"{kind}.nii.gz")
    return Volume(steps.array.astype(np.float32) / 255, steps.affine)


@lru_cache(maxsize=1)
def _brain() -> Volume:
    """Return where the template's brain is, 0 or 1."""
    volume = template("brain")
    return Volume(ndimage.binary_fill_holes(volume.array > _BRAIN_LEVEL).astype(np.uint8), volume.affine)


def template_brain(grid: Grid) -> NDArray[np.uint8]:
    """Return where the template's brain is on a grid in template space, 0 or 1 (X, Y, Z)."""
    return _brain().to_grid(grid.shape, grid.affine, labels=True).array


@lru_cache(maxsize=1)
def brain_surface() -> NDArray[np.float64]:
    """Return points on the template brain's surface, (N, 3) mm."""
    brain = _brain().array > 0
    voxels = np.argwhere(brain & ~ndimage.binary_erosion(brain))[::20]
    return _to_world(voxels, _brain().affine)


def _climb(
    scan: Volume, start: NDArray, center: NDArray, goal: tuple[NDArray, NDArray], step_mm: float, steps: int
) -> optimize.OptimizeResult:
    """Raise the correlation from `start`, along one direction after the other (Powell)."""

    def unlikeness(parameters: NDArray) -> float:
        if abs(parameters[6]) > np.log(_MOST_SCALING) * _LEVER_MM:
            return 1.0
        return -_correlate(scan, build_transform(parameters, center), *goal)

    options = {"direc": np.diag([step_mm] * 7), "maxiter": steps, "xtol": 0.01, "ftol": 1e-5}
    return optimize.minimize(unlikeness, start, method="Powell", options=options)


def build_transform(parameters: NDArray, center: NDArray) -> Affine:
    """Return the transform of a shift (mm), rotations and the logarithm of a scale (both times the lever)."""
    x, y, z = parameters[3:6] / _LEVER_MM
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    transform = np.eye(4)
    transform[:3, :3] = np.exp(parameters[6] / _LEVER_MM) * (about_z @ about_y @ about_x)
    transform[:3, 3] = center + parameters[:3] - transform[:3, :3] @ center
    return transform


def _correlate(scan: Volume, transform: Affine, points: NDArray, values: NDArray) -> float:
    to_voxels = np.linalg.inv(transform @ scan.affine)
    coordinates = to_voxels[:3, :3] @ points + to_voxels[:3, 3:]
    found = ndimage.map_coordinates(scan.array, coordinates, order=1, mode="constant")
    found = found - found.mean()
    size = float(np.sqrt((found**2).sum()))
    return float(found @ values) / size if size > 0 else 0.0


@lru_cache(maxsize=4)
def _template_points(kind: str, spacing_mm: float) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Return points in and around the brain, (3, N) mm, and the template there, with mean 0 and length 1."""
    volume = _shrink(template(kind), spacing_mm)
    brain = _brain().to_grid(volume.array.shape, volume.affine, labels=True).array > 0
    reach = ndimage.distance_transform_edt(~brain, sampling=volume.spacing_mm) <= _MARGIN_MM[kind]
    values = volume.array[reach] - volume.array[reach].mean()
    return _to_world(np.argwhere(reach), volume.affine).T.copy(), values / np.sqrt((values**2).sum())


def _shrink(scan: Volume, spacing_mm: float) -> Volume:
    """Return a scan averaged over cubes of the world, with a border of air, clipped at its 99.5th percentile."""
    scan = _pool(scan, spacing_mm / _FINE_ENOUGH)
    corners = np.array([*itertools.product(*((-0.5, n - 0.5) for n in scan.array.shape))])
    world = corners @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    low, high = world.min(axis=0) - 2 * spacing_mm, world.max(axis=0) + 2 * spacing_mm
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = low
    shape = np.ceil((high - low) / spacing_mm).astype(int)
    array = scan.to_grid(shape.tolist(), affine).array.astype(np.float32)
    bright = array[array > 0]
    return Volume(array.clip(0, np.percentile(bright, 99.5)) if bright.size else array, affine)


def _pool(scan: Volume, spacing_mm: float) -> Volume:
    """Return a scan with blocks of voxels averaged to about this spacing; finer voxels would only cost time."""
    blocks = tuple(max(1, int(spacing_mm / each)) for each in scan.spacing_mm)
    if max(blocks) == 1:
        return scan
    edges = [(0, -size % block) for size, block in zip(scan.array.shape, blocks, strict=True)]
    pooled = downscale_local_mean(np.pad(scan.array, edges, mode="edge"), blocks).astype(np.float32)
    affine = scan.affine.copy()
    affine[:3, :3] *= blocks
    affine[:3, 3] += scan.affine[:3, :3] @ (np.array(blocks) - 1) / 2
    return Volume(pooled, affine)


def _find_solid(small: Volume) -> NDArray[np.bool_]:
    """Return what is not air, filled, from the crown down as far as a head reaches."""
    solid = small.array > _AIR_LEVEL * small.array.max()
    pieces, count = ndimage.label(solid)
    if count > 1:  # a wrist band, or ghosts in the air
        solid = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    solid = ndimage.binary_fill_holes(solid)
    heights = np.arange(solid.shape[2])
    crown = heights[solid.any(axis=(0, 1))].max(initial=0)
    return solid & (heights > crown - _HEAD_MM / small.spacing_mm[2])


def _judge_kind(small: Volume) -> str:
    """Tell a brain that was cut out of its head from a whole head, by its size."""
    ml = np.count_nonzero(_find_solid(small)) * np.prod(small.spacing_mm) / 1000
    return "brain" if ml <= _LARGEST_BRAIN_ML else "head"


def _solid_center(small: Volume) -> NDArray[np.float64]:
    """Return the middle of what is not air, (3,) mm."""
    return _to_world(np.argwhere(_find_solid(small)), small.affine).mean(axis=0)


def _to_world(voxels: NDArray, affine: Affine) -> NDArray[np.float64]:
    """Return the places (N, 3) mm of voxels (N, 3)."""
    return voxels @ affine[:3, :3].T + affine[:3, 3]
