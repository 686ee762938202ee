"""Surfaces of the brain and its lesions in world space, and the 3-D figure that shows them; only here is plotly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import plotly
import plotly.graph_objects as go
from numpy.typing import NDArray
from scipy import ndimage
from skimage import filters, measure

from vcm.modalities.names import EDEMA, ENHANCING, NECROTIC_CORE, TUMOR
from vcm.modalities.registry import MODALITIES
from vcm.volume import Volume

_SURFACE_SPACING_MM = 2.0  # finer grids are sampled about this far apart: enough for gyri, small enough to send
_SMOOTHING_MM = 2.0
_BRAIN_COLOR = "#cfd6dd"
_BRAIN_OPACITY = 0.16
_EDEMA_OPACITY = 0.2
_RIM_OPACITY = 0.4
_FOUND_COLOR = "#f4a259"
_FOUND_OPACITY = 0.3
_OTHER_OPACITY = 0.6
_STAGE_COLOR = "#0b0d10"
_TEXT_COLOR = "#d5dbe1"
_LIGHTING = {"ambient": 0.35, "diffuse": 0.8, "specular": 0.25, "roughness": 0.5, "fresnel": 0.15}
_LETTERS = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
_LETTER_GAP_MM = 10.0
_SCALP_MM = 7.0  # an opening by this much takes away scalp and skull, and leaves the brain
_SULCUS_MM = 5.0  # a closing by this much bridges sulci, whose walls would clutter a translucent surface


@dataclass(frozen=True, eq=False)
class Surface:
    """A closed triangle mesh: vertices (N, 3) float32 in RAS+ mm, faces (M, 3) int32 into them."""

    vertices: NDArray[np.float32]
    faces: NDArray[np.int32]


@dataclass(frozen=True)
class Part:
    """One entry of the 3-D legend: a mask (X, Y, Z) on the figure's grid, and how it looks."""

    name: str
    mask: NDArray[np.bool_]
    color: str
    opacity: float


def extract_surface(mask: NDArray[np.bool_], affine: NDArray[np.float64]) -> Surface | None:
    """Return the smooth surface of a mask by marching cubes; None where there is nothing to see.

    Args:
        mask: (X, Y, Z); it may touch the border of the grid, where the surface is closed.
        affine: (4, 4), voxel to RAS+ mm.
    """
    if not mask.any():
        return None
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    padded = np.pad(mask.astype(np.float32), 2)
    smooth = ndimage.gaussian_filter(padded, _SMOOTHING_MM / spacing)
    # Smoothing shrinks a thin lesion below any fixed level: half of its own peak always leaves one.
    level = 0.5 * min(1.0, float(smooth.max()))
    step = max(1, round(_SURFACE_SPACING_MM / float(spacing.min())))
    if not smooth[::step, ::step, ::step].max() > level:
        step = 1
    vertices, faces, _, _ = measure.marching_cubes(smooth, level, step_size=step)
    in_mm = (vertices - 2.0) @ affine[:3, :3].T + affine[:3, 3]
    return Surface(in_mm.astype(np.float32), faces.astype(np.int32))


def find_brain(head: Volume) -> NDArray[np.bool_]:
    """Find the brain in a T1-weighted volume with or without the head around it, without any model.

    The scalp is a thin bright shell and the skull a dark one, so opening the bright voxels leaves the brain.

    Args:
        head: intensities, bright tissue on a dark background.

    Returns:
        (X, Y, Z), one piece without holes; the whole head where no brain stands apart; all False for an empty volume.
    """
    array = np.asarray(head.array, np.float32)
    if array.max() <= array.min():
        return np.zeros(array.shape, bool)
    smooth = ndimage.gaussian_filter(array, 1.0 / np.asarray(head.spacing_mm))
    bright = smooth > filters.threshold_otsu(smooth)
    depth = ndimage.distance_transform_edt(bright, sampling=head.spacing_mm)
    seeds = _largest_piece(depth > _SCALP_MM)
    if not seeds.any():
        return _envelop(bright, head.spacing_mm)
    distance = ndimage.distance_transform_edt(~seeds, sampling=head.spacing_mm)
    return _envelop(_largest_piece(bright & (distance <= _SCALP_MM)), head.spacing_mm)


def brain_from_anatomy(anatomy: Volume, tumor: Volume | None = None) -> NDArray[np.bool_]:
    """Return the brain of an anatomy label map: gray and white matter, ventricles and tumor, one piece without holes.

    Args:
        anatomy: (X, Y, Z), 1 CSF, 2 gray matter, 3 white matter, 4 ventricles.
        tumor: on the same grid, where the anatomy map is silent.
    """
    brain = anatomy.array > 1
    if tumor is not None:
        brain |= tumor.array > 0
    return _envelop(_largest_piece(brain), anatomy.spacing_mm)


def tumor_parts(labels: NDArray[np.uint8]) -> list[Part]:
    """Return the drawn tumor as parts: a translucent edema around an opaque core and rim."""
    modality = MODALITIES[TUMOR]
    # The rim usually encloses the core, so each surface is that of all that lies inside it as well.
    members = {EDEMA: (1, 2, 3), ENHANCING: (1, 3), NECROTIC_CORE: (1,)}
    has_core = bool((labels == NECROTIC_CORE).any())
    opacity = {EDEMA: _EDEMA_OPACITY, ENHANCING: _RIM_OPACITY if has_core else 1.0, NECROTIC_CORE: 1.0}
    return [
        Part(
            f"Drawn {modality.label_names[label - 1]}",
            np.isin(labels, members[label]),
            modality.colors[label - 1],
            opacity[label],
        )
        for label in (NECROTIC_CORE, ENHANCING, EDEMA)
        if (labels == label).any()
    ]


def label_parts(labels: NDArray[np.uint8], names: Sequence[str], colors: Sequence[str]) -> list[Part]:
    """Return each label of a map as a part of its own; `names` and `colors` are those of the labels 1, 2, ..."""
    return [
        Part(name, labels == label, color, _OTHER_OPACITY)
        for label, (name, color) in enumerate(zip(names, colors, strict=True), start=1)
        if (labels == label).any()
    ]


def found_part(labels: NDArray[np.uint8]) -> Part:
    """Return the tumor that a segmenter found in the generated volume, as one part."""
    return Part("Generated tumor", labels > 0, _FOUND_COLOR, _FOUND_OPACITY)


def render_scene(
    brain: NDArray[np.bool_], parts: Sequence[Part], affine: NDArray[np.float64], revision: str = "scene"
) -> go.Figure:
    """Draw a translucent brain with what lies in it, between letters; every part can be switched in the legend.

    Args:
        brain: (X, Y, Z) mask.
        parts: on the same grid; those without a voxel are left out.
        affine: (4, 4), voxel to RAS+ mm.
        revision: figures with the same revision share the camera and the choices of the legend when the page puts one
            in place of another.
    """
    # Opaque meshes come first: what is drawn later is blended over them.
    wanted = [*sorted(parts, key=lambda part: -part.opacity), Part("Brain", brain, _BRAIN_COLOR, _BRAIN_OPACITY)]
    surfaces = [(part, extract_surface(part.mask, affine)) for part in wanted]
    seen = [(part, surface) for part, surface in surfaces if surface is not None]
    figure = go.Figure([_mesh(part, surface) for part, surface in seen])
    # A mesh's own mark in the legend would be as translucent as the mesh, and another color on a dark stage.
    figure.add_traces([_legend_mark(part) for part, _ in seen])
    if seen:
        figure.add_trace(_letters(np.concatenate([surface.vertices for _, surface in seen])))
    hidden = {"visible": False}
    figure.update_layout(
        template="none",
        paper_bgcolor=_STAGE_COLOR,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        uirevision=revision,
        showlegend=True,
        legend={
            "x": 0.01,
            "y": 0.99,
            "bgcolor": "rgba(11,13,16,0.6)",
            "font": {"color": _TEXT_COLOR, "size": 12, "family": "system-ui, sans-serif"},
            "itemclick": "toggle",
            "itemdoubleclick": "toggleothers",
        },
        scene={
            "xaxis": hidden,
            "yaxis": hidden,
            "zaxis": hidden,
            "aspectmode": "data",
            "bgcolor": _STAGE_COLOR,
            "dragmode": "orbit",
            "uirevision": revision,
            "camera": {"eye": {"x": -1.05, "y": 1.05, "z": 0.6}},
        },
    )
    return figure


def scene_json(figure: go.Figure) -> str:
    """Return a figure as JSON for plotly.js: {"data": [...], "layout": {...}}, its arrays as typed binary."""
    text: str = figure.to_json(validate=False)
    return text


def plotly_script() -> Path:
    """Return the path of the plotly.js that comes with the installed plotly."""
    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def _mesh(part: Part, surface: Surface) -> go.Mesh3d:
    # A tenth of a millimetre is finer than anyone can see; small integer types keep the page light.
    vertices = np.round(surface.vertices, 1).astype(np.float32)
    faces = surface.faces.astype(np.uint16 if len(vertices) <= 2**16 else np.int32)
    return go.Mesh3d(
        x=vertices[:, 0],
        y=vertices[:, 1],
        z=vertices[:, 2],
        i=faces[:, 0],
        j=faces[:, 1],
        k=faces[:, 2],
        name=part.name,
        color=part.color,
        opacity=part.opacity,
        visible=True,
        flatshading=False,
        hoverinfo="skip",
        legendgroup=part.name,
        showlegend=False,
        showscale=False,
        lighting=_LIGHTING,
        lightposition={"x": 200, "y": 300, "z": 400},
    )


def _legend_mark(part: Part) -> go.Scatter3d:
    """Return an entry of the legend in the part's full color, which switches its mesh."""
    return go.Scatter3d(
        x=[None],
        y=[None],
        z=[None],
        mode="markers",
        marker={"color": part.color, "symbol": "square", "size": 10},
        name=part.name,
        legendgroup=part.name,
        visible=True,
        showlegend=True,
    )


def _letters(vertices: NDArray[np.float32]) -> go.Scatter3d:
    """Return the six directions of the body, around vertices (N, 3) in RAS+ mm."""
    low, high = vertices.min(0), vertices.max(0)
    directions = np.array(list(_LETTERS.values()))
    places = (low + high) / 2 + directions * ((high - low) / 2 + _LETTER_GAP_MM)
    return go.Scatter3d(
        x=places[:, 0],
        y=places[:, 1],
        z=places[:, 2],
        mode="text",
        text=list(_LETTERS),
        textfont={"color": _TEXT_COLOR, "size": 14},
        name="Directions",
        hoverinfo="skip",
        showlegend=False,
    )


def _largest_piece(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, count = ndimage.label(mask)
    if count < 2:
        return mask
    largest: NDArray[np.bool_] = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    return largest


def _envelop(mask: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    """Return the mask with its sulci bridged and its holes filled."""
    margin = 1 + int(np.ceil(_SULCUS_MM / min(spacing_mm)))
    padded = np.pad(mask, margin)
    grown = ndimage.distance_transform_edt(~padded, sampling=spacing_mm) <= _SULCUS_MM
    closed = ndimage.distance_transform_edt(grown, sampling=spacing_mm) > _SULCUS_MM
    inner = slice(margin, -margin)
    filled: NDArray[np.bool_] = ndimage.binary_fill_holes(closed[inner, inner, inner] | mask)
    return filled
