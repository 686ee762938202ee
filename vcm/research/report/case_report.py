"""One real mask, several brains: a page without a server that says how well the model follows it."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vcm.data.cohort import write_json
from vcm.errors import VolumeError
from vcm.metrics import largest_diameter_mm
from vcm.modalities.adherence import TUMOR_REGIONS
from vcm.modalities.names import TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.pipeline import Pipeline
from vcm.render.slices import Plane, find_focus, render_slice
from vcm.request import SEED_RANGE, GenerationRequest, GenerationResult
from vcm.volume import Volume
from vcm.weights.calibration import Calibration, Lesion
from vcm.whole_files import write_whole

PAGE_FILE, FIGURES_FILE = "index.html", "case.json"
SEED_COUNT = 4

_PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
_HEIGHT = 256
_ALIKE = 1.5
"""Test lesions up to so many times as large or as small say what to expect of one."""


@dataclass(frozen=True, eq=False)
class Case:
    """What came of one mask.

    Attributes:
        results: of the seeds, in their order; the first one holds the uncontrolled volume, too.
        placed_mm: how far a scan, and the mask with it, was moved to template space; None where no scan was given.
    """

    results: tuple[GenerationResult, ...]
    placed_mm: float | None = None

    @property
    def mask(self) -> Volume:
        """The mask as the model saw it: labels on the model grid."""
        return self.results[0].conditions[TUMOR]

    @property
    def diameter_mm(self) -> float:
        """Of the sphere with the volume of the largest lesion."""
        voxel_mm = abs(float(np.linalg.det(self.mask.affine[:3, :3]))) ** (1 / 3)
        return largest_diameter_mm(self.mask.array > 0, voxel_mm)


def place_with_scan(mask: Volume, scan: Volume) -> tuple[Volume, float]:
    """Return a mask moved to template space with its scan, and how far that was in mm; 0 where it lay there.

    Raises:
        VolumeError: the two do not overlap, or the scan is not like the template anywhere.
    """
    from vcm.registration.register import TOLERANCE_MM, place_in_template

    mask.to_grid(scan.array.shape, scan.affine, labels=True)  # refused where they lie apart
    found = place_in_template(scan).rigid  # a lesion keeps its size, and so its milliliters
    if found.moved_mm <= TOLERANCE_MM:
        return mask, 0.0
    return Volume(mask.array, found.transform @ mask.affine, mask.notes), found.moved_mm


def follow_case(
    pipeline: Pipeline,
    mask: Volume,
    *,
    seeds: int = SEED_COUNT,
    first_seed: int = 0,
    placed_mm: float | None = None,
    tell: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> Case:
    """Generate a mask in several brains.

    Args:
        pipeline: a model that follows tumors and has a segmenter.
        mask: tumor labels 1 to 3, anywhere in template space.
        seeds: how many brains, from `first_seed` on.
        placed_mm: see `Case`.
        tell: called after each denoising step with the steps done and those to do.
        settings: of `GenerationRequest`.

    Raises:
        VolumeError, ValueError: the mask cannot be used, or the model can follow or measure no tumor.
    """
    if TUMOR not in pipeline.modalities:
        raise ValueError("This model follows no tumor map.")
    if pipeline.segmenter is None:
        raise ValueError("The model folder has no segmenter, so there is nothing to measure with.")
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; it must be at least 1.")
    if first_seed + seeds - 1 > SEED_RANGE[1]:
        raise ValueError(f"The last seed would be {first_seed + seeds - 1}; it must be at most {SEED_RANGE[1]}.")
    drawn = pipeline.prepare(GenerationRequest({TUMOR: mask}, **settings))[TUMOR].volume
    if not drawn.array.any():
        raise VolumeError(" ".join((*drawn.notes, "There is no tumor in the mask to be followed.")))
    results = []
    for number in range(seeds):
        request = GenerationRequest({TUMOR: mask}, seed=first_seed + number, compare=number == 0, **settings)
        with closing(pipeline.stream(request)) as events:
            for event in events:
                if isinstance(event, GenerationResult):
                    results.append(event)
                elif tell is not None:
                    tell(number * request.num_inference_steps + event.step, seeds * request.num_inference_steps)
    return Case(tuple(results), placed_mm)


def measure_case(case: Case, calibration: Calibration | None = None) -> dict[str, Any]:
    """Return the figures of a case as JSON types.

    - "drawn_ml", "diameter_mm": of the mask on the model grid.
    - "floor": Dice of the uncontrolled volume by region, as BraTS scores them.
    - "brains": for each seed, "seed", "dice" and "found_ml" by region.
    - "expected": of the model's own test lesions that are alike in size, how many there are and their mean Dice; None
      where there are none, or the model was not measured.
    """
    first = _tumor_scores(case.results[0])
    drawn_ml = first["drawn_ml"]["whole"]
    alike = [lesion for lesion in (calibration.lesions if calibration else ()) if _is_alike(lesion, drawn_ml)]
    return {
        "drawn_ml": first["drawn_ml"],
        "diameter_mm": case.diameter_mm,
        "placed_mm": case.placed_mm,
        "floor": first["uncontrolled"]["dice"],
        "brains": [
            {"seed": result.recipe["request"]["seed"], **_tumor_scores(result)["controlled"]} for result in case.results
        ],
        "expected": {"lesions": len(alike), "dice": float(np.mean([lesion.dice for lesion in alike]))}
        if alike
        else None,
        "weights": case.results[0].recipe["model"]["weights"],
    }


def write_case(case: Case, out: Path, calibration: Calibration | None = None) -> list[Path]:
    """Write `index.html`, which needs no other file, and `case.json` into a folder; returns both."""
    figures = measure_case(case, calibration)
    page = out / PAGE_FILE
    with write_whole(page) as file:
        file.write(render_case(case, figures).encode())
    write_json(out / FIGURES_FILE, figures)
    return [page, out / FIGURES_FILE]


def render_case(case: Case, figures: dict[str, Any]) -> str:
    """Return the page: what was found in a sentence, a table, and pictures in three planes."""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in say_case(case, figures))
    return _PAGE.substitute(sentences=sentences, table=_render_table(figures), pictures=_render_pictures(case))


def say_case(case: Case, figures: dict[str, Any]) -> Iterator[str]:
    """Yield what there is to say: how well it was followed, what to expect, and what became of the mask."""
    whole = [brain["dice"]["whole"] for brain in figures["brains"]]
    brains = "one brain" if len(whole) == 1 else f"{len(whole)} brains"
    told = f"{np.mean(whole):.2f}"
    if len(whole) > 1:
        told += f" on average ({min(whole):.2f} to {max(whole):.2f})"
    yield (
        f"Generated in {brains}, the mask ({figures['drawn_ml']['whole']:.1f} ml, its largest lesion about "
        f"{figures['diameter_mm']:.0f} mm across) overlaps by {told} with the tumor that an independent segmenter "
        f"finds; without the mask, in the same noise, by {figures['floor']['whole']:.2f}. 1 would be the mask itself, "
        "0 nothing of it."
    )
    expected = figures["expected"]
    if expected is not None:
        yield (
            f"Of the model's own test subjects, the {expected['lesions']} with about as much tumor came to "
            f"{expected['dice']:.2f} on average."
        )
    if case.placed_mm is not None:
        yield (
            f"The scan was moved to template space by up to {case.placed_mm:.0f} mm, and the mask with it."
            if case.placed_mm
            else "The scan lies in template space as it is."
        )
    yield from case.mask.notes


def _render_table(figures: dict[str, Any]) -> str:
    regions = list(TUMOR_REGIONS)
    head = "".join(f'<th scope="col">{region}</th>' for region in regions)
    rows = [("drawn, ml", figures["drawn_ml"], "{:.1f}"), ("Dice without the mask", figures["floor"], "{:.2f}")]
    for brain in figures["brains"]:
        rows.append((f"seed {brain['seed']}: Dice", brain["dice"], "{:.2f}"))
        rows.append((f"seed {brain['seed']}: found, ml", brain["found_ml"], "{:.1f}"))
    body = ""
    for title, values, form in rows:
        cells = "".join(f"<td>{_tell(values[region], form)}</td>" for region in regions)
        body += f'<tr><th scope="row">{title}</th>{cells}</tr>'
    return f"<table><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>"


def _render_pictures(case: Case) -> str:
    colors = MODALITIES[TUMOR].colors
    voxel = find_focus(case.mask.array)
    uncontrolled = case.results[0].uncontrolled
    assert uncontrolled is not None, "the first run compares"
    shown: list[tuple[str, Volume, Volume | None]]
    shown = [("Without the mask, which is outlined", uncontrolled, case.mask)]
    for result in case.results:
        seed = result.recipe["request"]["seed"]
        found = (result.segmentation or {}).get(TUMOR)
        shown.append((f"Seed {seed}", result.controlled, None))
        shown.append((f"Seed {seed}, with what was found", result.controlled, found))
    html = ""
    for title, volume, labels in shown:
        cuts = [
            render_slice(volume, plane, labels=labels, colors=colors, voxel=voxel, height=_HEIGHT, fill_opacity=0.0)
            for plane in _PLANES
        ]
        source = _encode(np.concatenate(cuts, axis=1))
        html += f'<figure><img src="{source}" alt="{title}, in three planes"><figcaption>{title}</figcaption></figure>'
    return html


def _encode(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=85, method=6)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"


def _tumor_scores(result: GenerationResult) -> dict[str, Any]:
    assert result.adherence is not None, "a tumor was drawn, and there is a segmenter"
    scores: dict[str, Any] = result.adherence[TUMOR]
    return scores


def _is_alike(lesion: Lesion, drawn_ml: float) -> bool:
    return drawn_ml / _ALIKE <= lesion.drawn_ml <= drawn_ml * _ALIKE


def _tell(value: float | None, form: str) -> str:
    return "not drawn" if value is None else form.format(value)


_PAGE = Template(
    """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>How well a mask is followed</title>
<style>
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; line-height: 1.2; }
p { max-width: 44rem; }
table { border-collapse: collapse; margin: 1.5rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 1rem 0.25rem 0; text-align: right; border-bottom: 1px solid #8886; }
th[scope=row] { text-align: left; font-weight: normal; }
#pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(28rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; }
figure:first-child { grid-column: 1 / -1; max-width: 30rem; }
img { width: 100%; display: block; background: #000; border-radius: 6px; }
figcaption, small { opacity: 0.8; }
</style>
<h1>How well a mask is followed</h1>
$sentences
$table
<div id="pictures">$pictures</div>
<p><small>Generated volumes, for research and teaching only, never for a diagnosis. Regions as BraTS scores them: the
whole tumor, its core without edema, the enhancing part. Pictures as radiologists hang them: the patient's left is on
the right of axial and coronal slices.</small></p>
</html>
"""
)
