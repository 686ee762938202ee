"""The simulated cohort: brain-like subjects with tumors, each a pure function of its seed.

Every subject is the MNI ICBM152 nonlinear template (Fonov et al. 2011, as carried by nilearn) under a random smooth
deformation, given the contrasts of MRI from its tissue fractions, a head around it and, for most, one to three
tumors with BraTS labels. No patient data is involved, and nothing here is clinical.

Effects of age and sex follow published ones:

* brain volume: men about 10 % larger (Ritchie et al. 2018, Cerebral Cortex 28:2959), a loss of about 0.35 % a year
  over this age range (Hedman et al. 2012, Human Brain Mapping 33:1987);
* lateral ventricles: about +0.65 ml a year (Scahill et al. 2003, Archives of Neurology 60:989);
* cortex: grey matter gives way to CSF linearly with age (Good et al. 2001, NeuroImage 14:21);
* white matter hyperintensities around the ventricles grow with age (de Leeuw et al. 2001, JNNP 70:9).

Axes are X to the right, Y to the front, Z up (RAS+); one voxel is 2 mm.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

SHAPE = (80, 112, 80)
SPACING_MM = 2.0
AFFINE = np.array([[2.0, 0, 0, -79.5], [0, 2.0, 0, -129.5], [0, 0, 2.0, -69.5], [0, 0, 0, 1]])

TRAINING_SEEDS = range(100_000)
VALIDATION_SEEDS = range(100_000, 200_000)
FIRST_TEST_SEED = 200_000

NECROTIC_CORE, EDEMA, ENHANCING = 1, 2, 3
CSF, GRAY_MATTER, WHITE_MATTER, VENTRICLES = 1, 2, 3, 4

AGE_RANGE_YEARS = (44.0, 82.0)
VENTRICULAR_ML_RANGE = (12.0, 84.0)
"""Lateral ventricles, in ml, that the covariate values 0 and 1 stand for."""
BRAIN_ML_RANGE = (1050.0, 1570.0)
"""Gray and white matter, in ml, that the covariate values 0 and 1 stand for."""

_VOXEL_ML = SPACING_MM**3 / 1000.0
_MARGIN_MM = 12
TEMPLATE_SHAPE = tuple(int(n * SPACING_MM) + 2 * _MARGIN_MM for n in SHAPE)
"""Of the template's maps at 1 mm: the field of view and a margin on each side."""
TEMPLATE_CORNER_MM = AFFINE[:3, 3] - (SPACING_MM - 1) / 2 - _MARGIN_MM
TEMPLATE_FILE = Path(__file__).parent / "template" / "maps.npz"
TISSUE_STEPS = 63
"""Shares of tissue are stored in whole steps of 1 / 63: an error of 0.003 in the image, far below its noise."""
HEAD_DISTANCE_STEPS_A_MM = 2
"""The distance from the inner table of the skull is stored in whole halves of a millimetre."""
_ROTATION_CENTER_MM = (0.0, -18.0, 4.0)
# One stream of random numbers for each part, so that the anatomy of a seed does not depend on whether it has a tumor.
_STREAMS = ("anatomy", "lesion", "t1", "t2", "flair", "head")


@dataclass(frozen=True)
class Covariates:
    """The covariates of BrainLDM's U-Net, each in [0, 1] after clipping: sex (1 = male), age, two measured volumes."""

    sex: float
    age: float
    ventricular_volume: float
    brain_volume: float
    ventricular_ml: float
    brain_ml: float

    @property
    def context(self) -> tuple[float, float, float, float]:
        """(sex, age, ventricular volume, brain volume), the order of BrainLDM."""
        return self.sex, self.age, self.ventricular_volume, self.brain_volume


@dataclass(frozen=True)
class Subject:
    """One simulated subject on the 80 x 112 x 80 grid of 2 mm.

    Attributes:
        images: contrasts by name ("t1" contrast-enhanced, "t2", "flair"), float32 (80, 112, 80) in [0, 1].
        tumor: uint8, 1 necrotic core, 2 edema, 3 enhancing, 0 elsewhere.
        anatomy: uint8, 1 CSF, 2 gray matter, 3 white matter, 4 ventricles, 0 outside the brain and inside the tumor.
        anatomy_before: the same brain before the tumor grew (no mass effect, nothing cut out).
        covariates: measured on the anatomy before the tumor.
    """

    seed: int
    images: dict[str, np.ndarray]
    tumor: np.ndarray
    anatomy: np.ndarray
    anatomy_before: np.ndarray
    covariates: Covariates

    @property
    def affine(self) -> np.ndarray:
        """(4, 4), voxel to RAS+ mm; the same of all subjects."""
        return AFFINE

    def image(self, contrast: str) -> np.ndarray:
        """Return the image of a contrast."""
        return self.images[contrast]


@dataclass(frozen=True)
class _Template:
    """Maps at 1 mm, (channels, 184, 248, 184), and what widens the ventricles on the 2 mm grid, (3, 80, 112, 80).

    The maps reach `_MARGIN_MM` beyond the field of view on each side, since small heads leave room around them.
    """

    maps: Tensor
    ventricle_distance_mm: Tensor
    ventricle_direction: Tensor


# Channels of the template's maps.
_GM, _WM, _CSF, _VENTRICLES, _HEAD_DISTANCE, _SOFT_TISSUE, _EYES, _AIR = range(8)


def simulate_subject(seed: int, contrasts: tuple[str, ...] = ("t1", "t2", "flair"), with_tumor: bool = True) -> Subject:
    """Make the subject of a seed; twice the same seed gives identical arrays.

    Args:
        seed: any non-negative integer; see TRAINING_SEEDS, VALIDATION_SEEDS, FIRST_TEST_SEED.
        contrasts: which images to render; leaving one out changes no other.
        with_tumor: False gives the same head without its tumor (about one subject in ten has none anyway).

    Raises:
        ValueError: the seed is negative, or there is no such contrast.
    """
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    for name in contrasts:
        if name not in _CONTRASTS:
            raise ValueError(f"contrast must be one of {', '.join(_CONTRASTS)}, got {name!r}")
    with torch.no_grad():
        random = {name: _Random(seed, index) for index, name in enumerate(_STREAMS)}
        healthy, covariates, age = _grow_anatomy(random["anatomy"])
        anatomy_before = _label_anatomy(healthy)
        maps, tumor = _grow_tumors(random["lesion"], healthy) if with_tumor else (healthy, torch.zeros(SHAPE).byte())
        anatomy = _label_anatomy(maps)
        anatomy[tumor > 0] = 0
        head = _Head.draw(random["head"])
        images = {name: _render(name, random[name], maps, tumor, age, head).numpy() for name in contrasts}
    return Subject(
        seed=seed,
        images=images,
        tumor=tumor.numpy(),
        anatomy=anatomy.numpy(),
        anatomy_before=anatomy_before.numpy(),
        covariates=covariates,
    )


def render_template() -> np.ndarray:
    """Return a T1 of the template itself with a head around it, undeformed and without a tumor, (80, 112, 80)."""
    with torch.no_grad():
        maps = _sample(_template().maps, _voxel_grid() * SPACING_MM + (SPACING_MM - 1) / 2 + _MARGIN_MM)
        head = _Head.draw(_Random(0, _STREAMS.index("head")))
        tumor = torch.zeros(SHAPE, dtype=torch.uint8)
        return _render("t1", _Random(0, _STREAMS.index("t1")), maps, tumor, 0.5, head).numpy()


def simulate_subjects(
    seeds: range | list[int],
    contrasts: tuple[str, ...] = ("t1", "t2", "flair"),
    with_tumor: bool = True,
    workers: int | None = None,
) -> Iterator[Subject]:
    """Yield the subjects of the seeds in order, made in parallel, one process a core unless `workers` is given."""
    workers = workers or os.cpu_count() or 1
    if workers == 1:
        for seed in seeds:
            yield simulate_subject(seed, contrasts, with_tumor)
        return
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        jobs = [(seed, contrasts, with_tumor) for seed in seeds]
        yield from pool.map(_simulate_job, jobs, chunksize=4)


def write_cohort(out: str | Path, subjects: int, seed: int = FIRST_TEST_SEED, workers: int | None = None) -> Path:
    """Write `subjects` subjects (seeds `seed`, `seed + 1`, ...) as NIfTI files with a participants.tsv; returns `out`.

    Each subject has `sub-<seed>_T1w`, `_T2w`, `_FLAIR`, `_tumor` and `_anatomy` (.nii.gz), all on one 2 mm RAS+ grid.
    """
    from tqdm import tqdm

    from vcm.volume import Volume

    if subjects < 1:
        raise ValueError(f"subjects must be at least 1, got {subjects}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    made = simulate_subjects(range(seed, seed + subjects), workers=min(workers or os.cpu_count() or 1, subjects))
    for subject in tqdm(made, total=subjects, unit="subject"):
        name = f"sub-{subject.seed:06d}"
        files = {
            "T1w": subject.images["t1"],
            "T2w": subject.images["t2"],
            "FLAIR": subject.images["flair"],
            "tumor": subject.tumor,
            "anatomy": subject.anatomy,
        }
        for suffix, array in files.items():
            Volume(array, AFFINE).save(folder / f"{name}_{suffix}.nii.gz")
        facts = subject.covariates
        low, high = AGE_RANGE_YEARS
        rows.append(
            {
                "participant_id": name,
                "seed": subject.seed,
                "sex": "M" if facts.sex else "F",
                "age_years": f"{low + facts.age * (high - low):.1f}",
                "ventricular_ml": f"{facts.ventricular_ml:.2f}",
                "brain_ml": f"{facts.brain_ml:.1f}",
                "tumor_ml": f"{np.count_nonzero(subject.tumor) * _VOXEL_ML:.2f}",
            }
        )
    with open(folder / "participants.tsv", "w", newline="") as table:
        writer = csv.DictWriter(table, fieldnames=list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return folder


def _simulate_job(job: tuple[int, tuple[str, ...], bool]) -> Subject:
    return simulate_subject(*job)


class _Random:
    """A stream of random numbers that depends on the seed and the part it draws for."""

    def __init__(self, seed: int, stream: int) -> None:
        self.generator = torch.Generator().manual_seed(seed * len(_STREAMS) + stream + 1)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * torch.rand(1, generator=self.generator).item()

    def normal(self, mean: float = 0.0, std: float = 1.0) -> float:
        return mean + std * torch.randn(1, generator=self.generator).item()

    def integer(self, low: int, high: int) -> int:
        """An integer in [low, high)."""
        return int(torch.randint(low, high, (1,), generator=self.generator).item())

    def white(self, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def smooth(self, cells: tuple[int, int, int], shape: tuple[int, int, int] = SHAPE, channels: int = 1) -> Tensor:
        """Noise of unit variance at its control points, (channels, *shape), interpolated between them."""
        coarse = self.white((1, channels, *cells))
        return F.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)[0]


@lru_cache(maxsize=1)
def _template() -> _Template:
    """Read the template's prepared maps, see `vcm.data.make_template`, and add what follows from a place alone."""
    with np.load(TEMPLATE_FILE) as stored:
        gray, white, ventricles, head = (torch.from_numpy(each).float() / TISSUE_STEPS for each in stored["tissue"])
        head_distance = torch.from_numpy(stored["head_distance"]).float() / HEAD_DISTANCE_STEPS_A_MM
        distance = torch.from_numpy(stored["ventricle_distance"].astype(np.float32))
        direction = torch.from_numpy(stored["ventricle_direction"]).float() / 127
    csf = (head - gray - white - ventricles).clamp_min(0)
    maps = torch.cat([torch.stack([gray, white, csf, ventricles, head_distance]), _soft_tissue_eyes_air()])
    return _Template(maps=maps, ventricle_distance_mm=distance, ventricle_direction=direction)


def _soft_tissue_eyes_air() -> Tensor:
    """Return the maps of face and neck, eyes, and air, (3, 184, 248, 184) at 1 mm: ellipsoids with soft borders."""
    corner_mm = TEMPLATE_CORNER_MM
    axes = [torch.arange(n, dtype=torch.float32) + float(c) for n, c in zip(TEMPLATE_SHAPE, corner_mm, strict=True)]

    def ellipsoid(center: tuple[float, float, float], radii: tuple[float, float, float]) -> Tensor:
        x, y, z = (((axis - c) / r) ** 2 for axis, c, r in zip(axes, center, radii, strict=True))
        square = x[:, None, None] + y[None, :, None] + z[None, None, :]
        return ((1.0 - square.sqrt()) * min(radii) + 0.5).clamp(0, 1)

    face, neck = ellipsoid((0, 38, -70), (62, 58, 52)), ellipsoid((0, -38, -92), (62, 68, 58))
    eyes = torch.maximum(ellipsoid((-31, 62, -40), (12, 12, 12)), ellipsoid((31, 62, -40), (12, 12, 12)))
    air = torch.maximum(ellipsoid((0, 50, -42), (13, 26, 13)), ellipsoid((0, 52, -74), (11, 36, 16)))
    return torch.stack([torch.maximum(face, neck), eyes, air])


@lru_cache(maxsize=1)
def _voxel_grid() -> Tensor:
    """Voxel indices of the 2 mm grid, (3, 80, 112, 80)."""
    return torch.stack(torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in SHAPE), indexing="ij"))


def _sample(maps: Tensor, voxels: Tensor) -> Tensor:
    """Read maps (C, X, Y, Z) at voxel positions (3, ...) by trilinear interpolation, clamped at the border."""
    size = maps.shape[1:]
    normalised = torch.stack([2 * voxels[axis] / (size[axis] - 1) - 1 for axis in (2, 1, 0)], dim=-1)
    return F.grid_sample(maps[None], normalised[None], mode="bilinear", padding_mode="border", align_corners=True)[0]


def _grow_anatomy(random: _Random) -> tuple[Tensor, Covariates, float]:
    """Deform the template: maps on the 2 mm grid (8, 80, 112, 80), the measured covariates, and the age in [0, 1]."""
    template = _template()
    sex = float(random.uniform(0, 1) < 0.5)
    age = random.uniform(0, 1)
    years = age * (AGE_RANGE_YEARS[1] - AGE_RANGE_YEARS[0])

    # Brains of the template's size are large: it averages stretched brains (its mask holds 1.88 l).
    relative_volume = 0.84 * (1 + 0.10 * (sex - 0.5)) * (1 - 0.0018 * years) * (1 + random.normal(0, 0.075))
    scale = float(np.clip(relative_volume, 0.62, 1.02)) ** (1 / 3)
    stretch = torch.tensor([scale * (1 + random.normal(0, 0.015)) for _ in range(3)], dtype=torch.float32)

    ventricular_ml = (16.0 + 0.65 * years) * float(np.exp(random.normal(0, 0.42)))
    # About 12 ml of surface displaced by a millimetre, from 26 ml at the average scale.
    widening_mm = float(np.clip((ventricular_ml - 26.0) / 12.0, -1.6, 4.0))

    center = torch.from_numpy((np.array(_ROTATION_CENTER_MM) - AFFINE[:3, 3]) / SPACING_MM).float()
    center = center.view(3, 1, 1, 1)
    voxels = (_voxel_grid() - center) / stretch.view(3, 1, 1, 1)
    voxels = _rotate(voxels, [np.deg2rad(random.normal(0, 2.0)) for _ in range(3)]) + center
    if random.uniform(0, 1) < 0.5:
        voxels[0] = SHAPE[0] - 1 - voxels[0]
    voxels = voxels + random.smooth((5, 7, 5), channels=3) * 1.1 + random.smooth((11, 15, 11), channels=3) * 0.5
    # Along the gradient of the distance to the ventricles: outside, read nearer to them, and they are wider.
    field = torch.cat([template.ventricle_direction, template.ventricle_distance_mm[None]])
    field = _sample(field, voxels)
    reach = torch.exp(-((field[3] / 12.0) ** 2))
    voxels = voxels - field[:3] * reach * (widening_mm / SPACING_MM)

    maps = _sample(template.maps, voxels * SPACING_MM + (SPACING_MM - 1) / 2 + _MARGIN_MM)
    maps[_HEAD_DISTANCE] *= scale
    # Cortical atrophy: partial-volume gray matter at the surface gives way to CSF.
    atrophy = (0.08 + 0.30 * age + random.normal(0, 0.05)) * (1 - maps[_GM]) * maps[_GM]
    atrophy = atrophy.clamp(0, 1) * (maps[_CSF] > 0.02)
    maps[_GM] -= atrophy
    maps[_CSF] += atrophy

    measured_ventricles = maps[_VENTRICLES].sum().item() * _VOXEL_ML
    measured_brain = (maps[_GM] + maps[_WM]).sum().item() * _VOXEL_ML
    covariates = Covariates(
        sex=sex,
        age=age,
        ventricular_volume=_fraction(measured_ventricles, VENTRICULAR_ML_RANGE),
        brain_volume=_fraction(measured_brain, BRAIN_ML_RANGE),
        ventricular_ml=measured_ventricles,
        brain_ml=measured_brain,
    )
    return maps, covariates, age


def _rotate(voxels: Tensor, angles: list[float]) -> Tensor:
    """Rotate positions (3, ...) about the origin by three small angles in radians, around x, then y, then z."""
    for axis, angle in enumerate(angles):
        first, second = [a for a in range(3) if a != axis]
        u, v = voxels[first].clone(), voxels[second].clone()
        voxels[first] = np.cos(angle) * u - np.sin(angle) * v
        voxels[second] = np.sin(angle) * u + np.cos(angle) * v
    return voxels


def _fraction(value: float, limits: tuple[float, float]) -> float:
    return float(np.clip((value - limits[0]) / (limits[1] - limits[0]), 0, 1))


def _label_anatomy(maps: Tensor) -> Tensor:
    """Anatomy labels (80, 112, 80) uint8: the tissue that fills most of each voxel, 0 where none fills half."""
    labels = torch.full(SHAPE, CSF, dtype=torch.uint8)
    largest = maps[_CSF]
    # A running comparison: argmax over the leading axis takes ten times as long.
    for label, channel in ((GRAY_MATTER, _GM), (WHITE_MATTER, _WM), (VENTRICLES, _VENTRICLES)):
        labels[maps[channel] > largest] = label
        largest = torch.maximum(largest, maps[channel])
    labels[maps[:4].sum(0) < 0.5] = 0
    return labels


def _grow_tumors(random: _Random, healthy: Tensor) -> tuple[Tensor, Tensor]:
    """Put zero to three tumors into a brain: the maps after the mass effect, and the labels (80, 112, 80) uint8."""
    tumor = torch.zeros(SHAPE, dtype=torch.uint8)
    maps = healthy
    if random.uniform(0, 1) < 0.1:
        return maps, tumor
    draw = random.uniform(0, 1)
    count = 1 if draw < 0.78 else 2 if draw < 0.95 else 3
    for index in range(count):
        # Log-uniform in diameter; second and third lesions are satellites.
        largest = 60.0 if index == 0 else 18.0
        diameter_mm = float(np.exp(random.uniform(np.log(6.5), np.log(largest))))
        maps, lesion = _grow_tumor(random, maps, diameter_mm)
        tumor = torch.where((lesion > 0) & (tumor == 0), lesion, tumor)
    return maps, tumor


def _grow_tumor(random: _Random, maps: Tensor, diameter_mm: float) -> tuple[Tensor, Tensor]:
    """Grow one tumor whose labelled whole is about `diameter_mm` across: (maps after the mass effect, its labels)."""
    parenchyma = maps[_GM] + maps[_WM]
    places = (parenchyma > 0.6).nonzero()  # the cortex and the borders of the ventricles, too
    center = places[random.integer(0, len(places))].float().view(3, 1, 1, 1)
    radius = diameter_mm / 2 / SPACING_MM  # voxels

    offset = _voxel_grid() - center
    stretch = torch.tensor([np.exp(random.normal(0, 0.16)) for _ in range(3)], dtype=torch.float32)
    distance = (offset / stretch.view(3, 1, 1, 1)).norm(dim=0)
    lumps = 0.55 * random.smooth((9, 13, 9))[0] + 0.30 * random.smooth((19, 27, 19))[0]
    irregularity = random.uniform(0.0, 0.32)
    level = distance / radius + irregularity * lumps  # 1 at the border of the whole tumor
    solid, rim, spread = _draw_parts(random, radius)
    # What is drawn with a brush does not follow the tissue: a part of all lesions has edema over sulci as well.
    follows_tissue = random.uniform(0, 1) < 0.7
    if not follows_tissue:
        spread = 0.0

    mass = random.uniform(0.08, 0.32) * max(solid, 0.3) * radius
    maps = _push_aside(maps, offset, radius * max(solid, 0.4), mass)
    parenchyma = maps[_GM] + maps[_WM]
    # Edema spreads along white matter and stops at the cortex and at the ventricles.
    whole = (level - spread * (maps[_WM] - 0.55)) < 1.0
    if follows_tissue:
        whole &= parenchyma > 0.5
    whole |= level < solid
    inside = (parenchyma + maps[_CSF] + maps[_VENTRICLES]) > 0.6
    labels = torch.zeros(SHAPE, dtype=torch.uint8)
    labels[whole & inside] = EDEMA
    labels[(level < solid) & inside] = ENHANCING
    if rim > 0:  # the level dips below 0 at the center of lumpy lesions
        labels[(level < solid * rim) & inside] = NECROTIC_CORE
    return maps, _largest_part(labels)


def _draw_parts(random: _Random, radius: float) -> tuple[float, float, float]:
    """Draw how a tumor of a radius in voxels is divided.

    Returns the share of the radius that is core and rim (the rest is edema), the share of that which is core, and how
    far edema runs along white matter. Lesions of one label, with edema around it or alone, are what people draw first.
    """
    solid = random.uniform(0.42, 0.85)
    rim = random.uniform(0.55, 0.80)
    spread = 0.38
    kind = random.uniform(0, 1)
    alone = random.uniform(0, 1) < 0.5
    if kind < 0.14:  # edema only: non-enhancing, with an edema-like signal throughout
        return 0.0, 0.0, 0.0 if alone else spread
    if kind < 0.40:
        core_only = kind < 0.28 and radius >= 1.8
        return (1.0, float(core_only), 0.0) if alone else (solid, float(core_only), spread)
    thinnest = 1.1  # voxels; a thinner rim could not be seen
    if radius < 2.4:  # 10 mm: too small for core and rim, but not for an enhancing spot with edema
        return solid, 0.0, spread
    if radius < 4.5 or kind < 0.52:
        solid = random.uniform(0.75, 1.0)  # rings with little edema, the only form of small ones that shows a core
    return solid, min(rim, max(0.0, solid * radius - thinnest) / (solid * radius)), spread


def _push_aside(maps: Tensor, offset: Tensor, radius: float, mass: float) -> Tensor:
    """The mass effect: tissue moves radially outward by up to `mass` voxels, less and less far from the tumor."""
    distance = offset.norm(dim=0).clamp_min(1e-3)
    reach = max(radius * 1.8, 4.0)
    size = mass * (distance / radius).clamp(max=1.0) * torch.exp(-(((distance - radius).clamp_min(0) / reach) ** 2))
    # The skull does not move.
    size = size * (maps[:4].sum(0)).clamp(0, 1)
    voxels = _voxel_grid() - offset / distance * size
    pushed = maps.clone()
    pushed[:4] = _sample(maps[:4], voxels)
    return pushed


def _largest_part(labels: Tensor) -> Tensor:
    parts, count = ndimage.label(labels.numpy() > 0)
    if count <= 1:
        return labels
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    return labels * torch.from_numpy(parts == sizes.argmax())


@dataclass(frozen=True)
class _Head:
    """Thicknesses in mm of what lies around the brain, and the seed of its texture."""

    skull_mm: float
    scalp_mm: float
    texture: Tensor

    @classmethod
    def draw(cls, random: _Random) -> _Head:
        return cls(random.uniform(5.0, 7.5), random.uniform(4.0, 7.0), random.smooth((20, 28, 20))[0])


@dataclass(frozen=True)
class _Contrast:
    """Ranges of signal in [0, 1], as (low, high), of one MRI contrast."""

    gray_matter: tuple[float, float]
    white_matter: tuple[float, float]
    csf: tuple[float, float]
    core: tuple[float, float]
    enhancing: tuple[float, float]
    edema: tuple[float, float]  # relative to white matter
    fat: tuple[float, float]
    muscle: tuple[float, float]
    eyes: float
    hyperintensity: float  # of white matter around the ventricles in old age, added
    aging: float  # change of gray matter over the age range


_CONTRASTS = {
    "t1": _Contrast(
        gray_matter=(0.46, 0.53),
        white_matter=(0.73, 0.80),
        csf=(0.14, 0.20),
        core=(0.20, 0.34),
        enhancing=(0.92, 1.0),
        edema=(0.75, 0.85),
        fat=(0.80, 0.95),
        muscle=(0.34, 0.44),
        eyes=0.22,
        hyperintensity=-0.05,
        aging=-0.03,
    ),
    "t2": _Contrast(
        gray_matter=(0.50, 0.57),
        white_matter=(0.34, 0.40),
        csf=(0.88, 0.96),
        core=(0.70, 0.90),
        enhancing=(0.56, 0.70),
        edema=(1.9, 2.2),
        fat=(0.60, 0.72),
        muscle=(0.20, 0.28),
        eyes=0.92,
        hyperintensity=0.22,
        aging=0.0,
    ),
    "flair": _Contrast(
        gray_matter=(0.52, 0.58),
        white_matter=(0.40, 0.45),
        csf=(0.09, 0.15),
        core=(0.30, 0.55),
        enhancing=(0.66, 0.80),
        edema=(1.85, 2.15),
        fat=(0.58, 0.70),
        muscle=(0.26, 0.34),
        eyes=0.14,
        hyperintensity=0.28,
        aging=0.0,
    ),
}


def _render(name: str, random: _Random, maps: Tensor, tumor: Tensor, age: float, head: _Head) -> Tensor:
    """Render one contrast of a head, (80, 112, 80) float32 in [0, 1]."""
    contrast = _CONTRASTS[name]

    def draw(limits: tuple[float, float]) -> float:
        return random.uniform(*limits)

    white_matter = draw(contrast.white_matter)
    gray_matter = draw(contrast.gray_matter) + contrast.aging * age
    csf = draw(contrast.csf)
    texture = random.smooth((40, 56, 40))[0]
    coarse_texture = random.smooth((14, 20, 14))[0]

    brain = maps[_GM] * gray_matter + maps[_WM] * white_matter + (maps[_CSF] + maps[_VENTRICLES]) * csf
    near_ventricles = gaussian_blur(maps[_VENTRICLES], 1.6) * maps[_WM]
    hyperintensity = 2.0 * near_ventricles * (0.25 + 0.75 * age) + 0.10 * (coarse_texture - 1.6).clamp(0, 1) * maps[_WM]
    brain = brain + contrast.hyperintensity * hyperintensity.clamp(0, 1)

    image = brain + _render_head(random, contrast, maps, head, vessels_enhance=name == "t1")
    image = image + 0.016 * texture * image.clamp(0.15, 1) + 0.012 * coarse_texture * (image > 0.05)

    for label, limits in ((EDEMA, None), (ENHANCING, contrast.enhancing), (NECROTIC_CORE, contrast.core)):
        if not (tumor == label).any():
            continue
        # A level is the same for one label of a subject; edema keeps some of the anatomy under it.
        share = gaussian_blur((tumor == label).float(), 0.55)
        if limits is None:
            factor = draw(contrast.edema)
            signal = factor * white_matter * (0.85 + 0.15 * brain / white_matter) + 0.025 * texture
        else:
            signal = draw(limits) + 0.035 * texture + 0.02 * coarse_texture
        image = image * (1 - share) + signal * share

    bias = random.smooth((3, 4, 3))[0]
    image = image * (1 + 0.15 * bias / bias.abs().max())
    noise = random.uniform(0.020, 0.028)
    real, imaginary = random.white((2, *SHAPE)) * noise
    # The magnitude of a complex signal: Rician noise, as in MRI.
    return torch.sqrt((image.clamp_min(0) + real) ** 2 + imaginary**2).clamp(0, 1)


def _render_head(random: _Random, contrast: _Contrast, maps: Tensor, head: _Head, vessels_enhance: bool) -> Tensor:
    """Skull, scalp, eyes, face and neck around the brain, (80, 112, 80)."""
    outside = (1 - maps[:4].sum(0)).clamp(0, 1)
    distance = maps[_HEAD_DISTANCE] + 0.8 * head.texture

    def band(start_mm: float, end_mm: float) -> Tensor:
        """1 between two distances from the inner skull, with edges softened over a voxel."""
        rise = ((distance - start_mm) / SPACING_MM + 0.5).clamp(0, 1)
        fall = ((end_mm - distance) / SPACING_MM + 0.5).clamp(0, 1)
        return rise * fall

    fat, muscle = random.uniform(*contrast.fat), random.uniform(*contrast.muscle)
    compact_bone, marrow = random.uniform(0.04, 0.08), random.uniform(0.4, 0.6) * fat
    skull_end = head.skull_mm
    scalp_end = head.skull_mm + head.scalp_mm
    below = maps[_SOFT_TISSUE].clamp(0, 1)
    patches = (0.5 + 0.5 * head.texture).clamp(0, 1)
    tissue = muscle + (fat - muscle) * patches**2
    tissue = tissue * (1 - maps[_AIR].clamp(0, 1)) + 0.02 * maps[_AIR].clamp(0, 1)
    eyes = maps[_EYES].clamp(0, 1)
    tissue = tissue * (1 - eyes) + contrast.eyes * eyes

    skull = band(0.0, skull_end)
    diploe = band(0.36 * skull_end, 0.70 * skull_end) * (0.55 + 0.25 * head.texture).clamp(0, 1)
    bone = compact_bone + (marrow - compact_bone) * diploe
    scalp = band(skull_end, scalp_end)
    beyond = ((distance - skull_end) / SPACING_MM + 0.5).clamp(0, 1) * below
    image = bone * skull + fat * scalp * (1 - beyond) + tissue * beyond
    if vessels_enhance:
        # Contrast agent lights up the superior sagittal sinus, between skull and brain along the midline.
        grid = _voxel_grid()
        midline = torch.exp(-(((grid[0] - (SHAPE[0] - 1) / 2) / 1.6) ** 2))
        upper = ((grid[2] - 38) / 8).clamp(0, 1) * ((66 - grid[1]) / 12).clamp(0, 1)
        image = image + 0.75 * midline * upper * band(-0.5, 2.5)
    return image * outside


def gaussian_blur(volume: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (X, Y, Z) by `sigma` voxels."""
    radius = int(3 * sigma) + 1
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    result = volume[None, None]
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = -1
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        result = F.conv3d(F.pad(result, padding, mode="replicate"), kernel.view(shape))
    return result[0, 0]
