"""The pictures of the README: the simulated cohort, and what the model makes beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vcm.data import simulate
from vcm.metrics import largest_diameter_mm
from vcm.modalities.names import ANATOMY, FLAIR, T2, TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.pipeline import Pipeline
from vcm.render.slices import Plane, extract_plane, find_focus, render_slice
from vcm.research.evaluate.evaluate import CLEAR_LESION_MM, EvaluationPlan, build_request
from vcm.volume import Volume

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

Picture = NDArray[np.uint8]
"""(rows, columns, 3)."""

COHORT_SEEDS = range(simulate.FIRST_TEST_SEED, simulate.FIRST_TEST_SEED + 12)
SAMPLE_COUNT = 8

_PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_CONTRAST_TITLES = {"t1": "T1 + contrast", T2: "T2", FLAIR: "FLAIR"}
_ZOOM = 2
_GAP = 20
_CAPTION = 60
_MARGIN = 72
_COLUMNS = 4
# As a viewer of scans would window them: noise in the air goes black.
_BLACK, _WHITE = 0.05, 0.95
_FULL_CHANGE = 0.5
_TUMOR_COLORS = MODALITIES[TUMOR].colors
TEXT, FAINT_TEXT = "#e6e6e6", "#9a9a9a"
# A palette keeps the file at a third of its size, and the noise of the images hides that the grays are few.
_GRAYS, _COLORS = 36, 92


def draw_cohort(path: str | Path, seeds: Sequence[int] = COHORT_SEEDS, workers: int | None = None) -> Path:
    """Draw the first subjects of the test seeds, none left out, as T1, T2, FLAIR and labels in three planes.

    A subject is cut through the middle of its largest lesion, in radiological orientation.

    Args:
        path: of the PNG file.
        seeds: one subject each, four in a row.
        workers: processes that simulate; one a core when not given.

    Returns:
        `path`.
    """
    subjects = simulate.simulate_subjects(list(seeds), workers=workers)
    blocks = [_draw_subject(subject) for subject in subjects]
    legend = [
        (name, color)
        for modality in (TUMOR, ANATOMY)
        for name, color in zip(MODALITIES[modality].label_names, MODALITIES[modality].colors, strict=True)
    ]
    return _arrange(blocks, [*_CONTRAST_TITLES.values(), "labels"], legend).save(path)


def draw_samples(
    pipeline: Pipeline, path: str | Path, count: int = SAMPLE_COUNT, num_inference_steps: int = 20
) -> Path:
    """Draw generated volumes beside simulated ones, and the same noise without and with the tumor, in three planes.

    Shown are the first test subjects with a lesion of 12 mm and more, none left out: the simulated subject; the volume
    of its covariates without a condition, with the outline of the tumor that is asked for; the volume of the same noise
    with that tumor as its condition; and how far the two differ.

    Args:
        pipeline: a model on the simulated cohort's grid that takes the tumor.
        path: of the PNG file.
        count: how many subjects, four in a row.

    Returns:
        `path`.
    """
    plan = EvaluationPlan(num_inference_steps=num_inference_steps)
    blocks = []
    for subject in islice(_subjects_with_clear_lesion(plan.first_seed), count):
        logger.info("generating for the subject %d", subject.seed)
        tumor = Volume(subject.tumor, simulate.AFFINE)
        result = pipeline(build_request(subject, {TUMOR: tumor}, plan, compare=True))
        assert result.uncontrolled is not None
        blocks.append(_draw_sample(subject, result.uncontrolled, result.controlled))
    titles = ["simulated", "generated,\nno condition", "generated,\ntumor drawn", "difference"]
    tumor_labels = MODALITIES[TUMOR]
    legend = list(zip(tumor_labels.label_names, tumor_labels.colors, strict=True))
    shades = [(f"change {share * _FULL_CHANGE:.2f}", _hex(_heat(np.array(share)))) for share in (0.2, 0.5, 1.0)]
    return _arrange(blocks, titles, legend + shades).save(path)


@dataclass(frozen=True)
class _Block:
    """The pictures of one subject, a row for each title of the sheet, and what it says above them."""

    caption: str
    rows: list[Picture]


def _draw_subject(subject: simulate.Subject) -> _Block:
    focus = find_focus(subject.tumor)
    rows = [_draw_planes(subject.images[name], focus) for name in _CONTRAST_TITLES]
    t1 = _window(subject.images["t1"])
    labels = [_draw_labels(t1, subject, plane, focus) for plane in _PLANES]
    return _Block(_describe(subject), [*rows, _beside(labels)])


def _draw_sample(subject: simulate.Subject, uncontrolled: Volume, controlled: Volume) -> _Block:
    focus = find_focus(subject.tumor)
    change = np.abs(controlled.array - uncontrolled.array)
    rows = [
        _draw_planes(subject.images["t1"], focus),
        _draw_planes(uncontrolled.array, focus, subject.tumor),
        _draw_planes(controlled.array, focus),
        _beside([_draw_change(change, plane, focus) for plane in _PLANES]),
    ]
    return _Block(_describe(subject), rows)


def _subjects_with_clear_lesion(first_seed: int) -> Iterator[simulate.Subject]:
    seed = first_seed
    while True:
        subject = simulate.simulate_subject(seed, ("t1",))
        if largest_diameter_mm(subject.tumor > 0, simulate.SPACING_MM) >= CLEAR_LESION_MM:
            yield subject
        seed += 1


def _describe(subject: simulate.Subject) -> str:
    facts = subject.covariates
    low, high = simulate.AGE_RANGE_YEARS
    tumor_ml = np.count_nonzero(subject.tumor) * simulate.SPACING_MM**3 / 1000
    tumor = f"tumor {tumor_ml:.1f} ml" if tumor_ml else "no tumor"
    return f"{'male' if facts.sex else 'female'}, {low + facts.age * (high - low):.0f} years, {tumor}"


def _window(image: NDArray) -> NDArray[np.float32]:
    windowed: NDArray[np.float32] = ((image.astype(np.float32) - _BLACK) / (_WHITE - _BLACK)).clip(0, 1)
    return windowed


def _draw_planes(image: NDArray, focus: Sequence[int], outlined: NDArray[np.uint8] | None = None) -> Picture:
    """Draw an image in [0, 1] in three planes side by side, with labels outlined where given."""
    volume = Volume(_window(image), simulate.AFFINE)
    labels = None if outlined is None else Volume(outlined, simulate.AFFINE)
    draw = partial(render_slice, volume, labels=labels, colors=_TUMOR_COLORS, voxel=focus, fill_opacity=0.0)
    return _beside([draw(plane, height=_height(plane)) for plane in _PLANES])


def _draw_labels(image: NDArray, subject: simulate.Subject, plane: Plane, focus: Sequence[int]) -> Picture:
    """Draw one plane of the anatomy and of the tumor in their colors, over a dim image (X, Y, Z) in [0, 1]."""
    picture = np.repeat(0.5 * _cut(image, plane, focus)[..., None], 3, axis=-1)
    for labels, name, brightness in ((subject.anatomy, ANATOMY, 0.8), (subject.tumor, TUMOR, 1.0)):
        cut = _cut(labels, plane, focus)
        for label, color in enumerate(MODALITIES[name].colors, start=1):
            picture[cut == label] = brightness * _rgb(color)
    return _enlarge(picture)


def _draw_change(change: NDArray, plane: Plane, focus: Sequence[int]) -> Picture:
    return _enlarge(_heat(_cut(change, plane, focus) / _FULL_CHANGE))


def _cut(array: NDArray, plane: Plane, focus: Sequence[int]) -> NDArray:
    return extract_plane(Volume(array, simulate.AFFINE), plane, focus)


def _height(plane: Plane) -> int:
    return _ZOOM * simulate.SHAPE[1 if plane == "axial" else 2]


def _enlarge(picture: NDArray) -> Picture:
    """Repeat the pixels of a picture (rows, columns, 3) in [0, 1]: a label has no shades between it and the next."""
    enlarged = picture.clip(0, 1).repeat(_ZOOM, axis=0).repeat(_ZOOM, axis=1)
    return np.rint(enlarged * 255).astype(np.uint8)


def _beside(pictures: Sequence[Picture]) -> Picture:
    """Put pictures side by side, the lower ones in the middle of the height."""
    height = max(len(picture) for picture in pictures)
    padded = []
    for picture in pictures:
        above = (height - len(picture)) // 2
        padded.append(np.pad(picture, ((above, height - len(picture) - above), (0, 0), (0, 0))))
    return np.concatenate(padded, axis=1)


def _heat(share: NDArray) -> NDArray:
    """Return colors (..., 3) in [0, 1] of shares in [0, 1]: black is none."""
    import matplotlib

    return np.asarray(matplotlib.colormaps["inferno"](share))[..., :3]


def _rgb(color: str) -> NDArray[np.float64]:
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def _hex(color: NDArray) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in color.tolist())


def _arrange(blocks: Sequence[_Block], titles: Sequence[str], legend: Sequence[tuple[str, str]]) -> _Sheet:
    """Lay out the subjects in rows, with the titles of their pictures at the left and a legend of colors below."""
    height, width = blocks[0].rows[0].shape[:2]
    block_height = _CAPTION + len(titles) * height + _GAP
    columns = min(_COLUMNS, len(blocks))
    lines = -(-len(blocks) // columns)
    sheet = _Sheet(width=_MARGIN + columns * (width + _GAP), height=lines * block_height + _CAPTION + _GAP)
    for index, block in enumerate(blocks):
        line, column = divmod(index, columns)
        left, top = _MARGIN + column * (width + _GAP), line * block_height
        sheet.write(block.caption, left + width / 2, top + _CAPTION / 2, ha="center", color=FAINT_TEXT)
        for row, picture in enumerate(block.rows):
            sheet.paste(picture, left, top + _CAPTION + row * height)
            if column == 0:
                middle = top + _CAPTION + (row + 0.5) * height
                sheet.write(titles[row], _MARGIN / 2, middle, rotation=90, ha="center")
    share = (sheet.width - _MARGIN) / len(legend)
    middle = sheet.height - (_CAPTION + _GAP) / 2
    for index, (name, color) in enumerate(legend):
        left = _MARGIN + index * share
        swatch = np.full((24, 24, 3), np.rint(255 * _rgb(color)), dtype=np.uint8)
        sheet.paste(swatch, int(left), int(middle) - 12)
        sheet.write(name, left + 36, middle)
    return sheet


class _Sheet:
    """A black sheet of pixels to paste pictures on and to write on; positions count from the upper left corner."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._pixels = np.zeros((height, width, 3), np.uint8)
        self._texts: list[tuple[str, float, float, dict]] = []

    def paste(self, picture: Picture, left: int, top: int) -> None:
        rows, columns = picture.shape[:2]
        self._pixels[top : top + rows, left : left + columns] = picture

    def write(self, text: str, left: float, middle: float, **style: object) -> None:
        """Add a text with its left end (or as matplotlib's `ha` says) at `left` and its middle at height `middle`."""
        self._texts.append((text, left, middle, {"color": TEXT, "va": "center", "size": 20, **style}))

    def save(self, path: str | Path) -> Path:
        """Write a PNG with a palette."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from PIL import Image

        dpi = 100
        figure = Figure(figsize=(self.width / dpi, self.height / dpi), dpi=dpi, facecolor="black")
        canvas = FigureCanvasAgg(figure)
        figure.figimage(self._pixels)
        for text, left, middle, style in self._texts:
            figure.text(left / self.width, 1 - middle / self.height, text, **style)
        canvas.draw()
        pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        picture = Image.fromarray(np.ascontiguousarray(pixels))
        picture.quantize(palette=_build_palette(pixels), dither=Image.Dither.NONE).save(path, "PNG", optimize=True)
        return Path(path)


def _build_palette(pixels: Picture) -> Image.Image:
    """Return an image whose palette holds evenly spaced grays and what covers the sheet's colors best."""
    from PIL import Image

    grays = np.repeat(np.rint(np.linspace(0, 255, _GRAYS)).astype(np.uint8)[:, None], 3, axis=1)
    colorful = pixels[np.ptp(pixels, axis=-1) > 12][None]
    colors = np.zeros((0, 3), np.uint8)
    if colorful.size:
        counted = Image.fromarray(np.ascontiguousarray(colorful)).quantize(_COLORS, method=Image.Quantize.MAXCOVERAGE)
        colors = np.array(counted.getpalette(), np.uint8).reshape(-1, 3)[:_COLORS]
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([grays, colors]).ravel().tolist())
    return palette
