"""A lesson's figures as HTML: the pictures cut from their sheet, charts, and sentences made from the numbers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from vcm.ui.learn.charts import draw_line, draw_scatter
from vcm.ui.learn.lesson_figures import Figure
from vcm.weights.calibration import FOLLOWED_DICE, MOST_MISSED, NEIGHBORS, Calibration

Facts = Mapping[str, Any]

_MANY = 5
_SAME = 0.01
_HARDLY = 0.3  # an overlap below it is no lesion that was followed
_NEARLY = 0.9  # of what the whole way gives
_NO_LESION = "There is no overlap to tell, so the cells say how far the volume moves: the brighter, the farther."
_COVARIATE_TITLES = {"age": "Age", "ventricular_volume": "Ventricular volume"}


def render_figure(figure: Figure) -> str:
    """Return a figure with its pictures and the sentence on what it shows."""
    return _RENDERERS[figure.facts["kind"]](figure)


def render_calibration(calibration: Calibration | None) -> str:
    """Return drawn against found lesion volume, with the smallest lesion that is followed reliably."""
    if calibration is None or not calibration.lesions:
        return _say("These weights have not been measured yet: vcm evaluate does it.")
    followed = sum(lesion.is_followed for lesion in calibration.lesions)
    count = len(calibration.lesions)
    smallest = calibration.smallest_followed
    if smallest is None:
        largest = calibration.lesions[-NEIGHBORS:]
        text = (
            f"No size is followed reliably: of the {len(largest)} largest lesions, "
            f"{sum(lesion.is_followed for lesion in largest)} came out where they were drawn "
            f"(overlap {FOLLOWED_DICE:g} or more), of all {count} test lesions {followed}."
        )
    else:
        text = (
            f"The smallest lesion that is followed reliably has {_milliliters(smallest.drawn_ml)}, about "
            f"{smallest.diameter_mm:.0f} mm across: from there on, of any {NEIGHBORS} test lesions next to each other "
            f"in size at least {NEIGHBORS - MOST_MISSED} overlap with their drawing by {FOLLOWED_DICE:g} or more "
            f"({followed} of all {count} do)."
        )
    points = [(lesion.drawn_ml, lesion.found_ml, lesion.is_followed) for lesion in calibration.lesions]
    chart = draw_scatter(points, x_title="Drawn, ml", y_title="Found, ml", told=text)
    key = (
        '<p class="fine"><i class="key"></i>followed <i class="key hollow"></i>not followed. On the dashed line as '
        "much was found as was drawn, there or elsewhere.</p>"
    )
    return f'<div class="lesson-figure">{_say(text)}<div class="charts">{chart}</div>{key}</div>'


def _render_pair(figure: Figure) -> str:
    free, controlled = figure.facts["dice"]
    brightest = figure.facts["brightest"]
    if controlled is not None:
        text = f"With the drawing the overlap is {controlled:.2f}, without it {free or 0:.2f}."
    elif brightest:
        text = f"Nearly everywhere in this slice they differ by less than {brightest:.2g}; black to white is 1."
    else:
        text = "In this slice they are the same."
    captions = [
        ("Without control", "outlined: what is asked for"),
        ("With control", "the same noise"),
        ("Difference", f"full color at {brightest:.2g}"),
    ]
    return _wrap(figure, _say(text) + _show_row(figure, captions))


def _render_guidance(figure: Figure) -> str:
    scales, distances = figure.facts["scales"], figure.facts.get("distance")
    dice = figure.facts.get("dice")
    below = _tell_each(dice, len(scales))
    captions = [(f"{scale:g}", text) for scale, text in zip(scales, below, strict=True)]
    charts = ""
    if dice is not None:
        charts += draw_line(scales, dice, x_title="Guidance", y_title="Overlap", top=1.0)
    if distances is not None:
        charts += draw_line(scales, distances, x_title="Guidance", y_title="Distance")
    return _wrap(figure, _say(_say_guidance(scales, dice, distances)) + _show_row(figure, captions) + _box(charts))


def _say_guidance(
    scales: Sequence[float], dice: Sequence[float | None] | None, distances: Sequence[float | None] | None
) -> str:
    if len(scales) < 2:
        return ""
    known = [(value, scale) for scale, value in zip(scales, dice or (), strict=False) if value is not None]
    if not known:
        far = (distances or (None,))[-1]
        if far is None:
            return ""
        return f"At {scales[-1]:g} the volume is {far:.3f} away from the uncontrolled one; there is no overlap to tell."
    best = max(value for value, _ in known)
    at = next(scale for value, scale in known if value > best - _SAME)
    if best < _HARDLY:
        text = f"The lesion is hardly followed at any guidance: the best overlap is {best:.2f}."
    else:
        text = f"The best overlap is {best:.2f}, at guidance {at:g}; at {scales[-1]:g} it is {known[-1][0]:.2f}."
    if distances and distances[-1]:
        text += f" The distance from the uncontrolled volume has risen to {distances[-1]:.3f} there."
    return text


def _render_window(figure: Figure) -> str:
    edges, cells = figure.facts["edges"], figure.facts["cells"]
    is_scored = any(dice is not None for _, _, dice, _ in cells)
    values = {(start, end): dice if is_scored else distance for start, end, dice, distance in cells}
    most = 1.0 if is_scored else max((value or 0.0 for value in values.values()), default=1.0) or 1.0
    head = "".join(f'<th scope="col">{end:g}</th>' for end in edges[1:])
    rows = ""
    for start in edges[:-1]:
        row = "".join(_draw_cell(values, start, end, most, is_scored=is_scored) for end in edges[1:])
        rows += f'<tr><th scope="row">{start:g}</th>{row}</tr>'
    what = "overlap with the drawing" if is_scored else "distance from the uncontrolled volume"
    table = (
        f'<table class="heat"><caption>Rows: control from; columns: control until; numbers: {what}. '
        f"0 is pure noise, 1 the finished volume; {figure.facts['steps']} steps each.</caption>"
        f"<thead><tr><td></td>{head}</tr></thead><tbody>{rows}</tbody></table>"
    )
    return _wrap(figure, _say(_say_window(edges, values) if is_scored else _NO_LESION) + table)


def _draw_cell(
    values: Mapping[tuple[float, float], float | None], start: float, end: float, most: float, *, is_scored: bool
) -> str:
    if (start, end) not in values:
        return "<td></td>" if start < end else '<td class="none"></td>'
    value = values[start, end]
    if value is None:
        return "<td>&ndash;</td>"
    share = min(1.0, value / most)
    shown = f"{value:.2f}" if is_scored else f"{value:.3f}"
    tone = " data-full" if share >= 0.85 else " data-high" if share >= 0.6 else ""
    return f'<td{tone} style="--level:{100 * share:.0f}%">{shown}</td>'


def _say_window(edges: Sequence[float], values: Mapping[tuple[float, float], float | None]) -> str:
    whole = values.get((edges[0], edges[-1]))
    count = (len(edges) - 1) * len(edges) // 2
    if whole is None or len(values) < count:
        return ""
    if whole < _HARDLY:
        return f"The lesion hardly forms: control all the way gives an overlap of {whole:.2f}."
    settled = next(end for end in edges[1:] if (values[edges[0], end] or 0.0) >= _NEARLY * whole)
    text = f"Control until {settled:g} is enough for nine tenths of the overlap that the whole way gives ({whole:.2f})."
    late = next((start for start in edges[1:-1] if (values[start, edges[-1]] or 0.0) < _HARDLY), None)
    if late is not None:
        text += f" Control that begins at {late:g} or later comes too late: {values[late, edges[-1]] or 0.0:.2f}."
    return text


def _render_seeds(figure: Figure) -> str:
    seeds, dice = figure.facts["seeds"], figure.facts.get("dice")
    known = [value for value in dice or () if value is not None]
    found = [value for value in figure.facts.get("ventricles_ml") or () if value is not None]
    text, below = "", _tell_each(dice, len(seeds))
    if len(known) > 1:
        text = f"In {len(known)} brains the overlap is {min(known):.2f} to {max(known):.2f}."
    elif len(found) > 1:
        text = f"In {len(found)} brains the ventricles have {min(found):.0f} to {max(found):.0f} ml."
        below = [_tell_ventricles(value) for value in figure.facts["ventricles_ml"]]
    captions = [("Mean", f"of {len(seeds)} volumes"), ("Deviation", f"full color at {figure.facts['brightest']:.2g}")]
    captions += [(f"Seed {seed}", told) for seed, told in zip(seeds, below, strict=True)]
    return _wrap(figure, _say(text) + _show_row(figure, captions))


def _render_covariates(figure: Figure) -> str:
    asked = figure.facts["asked"].get("ventricles_ml", [None])[0]
    body = ""
    for row, covariate in enumerate(figure.facts["covariates"]):
        values = covariate["values"]
        found = covariate.get("ventricles_ml") or [None] * len(values)
        captions = [(_name_value(covariate["name"], values[0]), _tell_ventricles(found[0]))]
        captions.append(("As asked", _tell_ventricles(asked)))
        if len(values) > 1:
            captions.append((_name_value(covariate["name"], values[1]), _tell_ventricles(found[1])))
            captions.append(("Difference", f"full color at {covariate['brightest']:.2g}"))
        body += f"<div><h4>{_COVARIATE_TITLES[covariate['name']]}</h4>{_show_row(figure, captions, row)}</div>"
    return _wrap(figure, _say(_say_covariates(figure.facts["covariates"])) + body)


def _say_covariates(covariates: Sequence[Facts]) -> str:
    told = []
    for covariate in covariates:
        values, found = covariate["values"], list(covariate.get("ventricles_ml") or ())
        if len(found) < 2 or None in found:
            continue
        if covariate["name"] == "age":
            told.append(f"At {values[0]:g} the ventricles have {found[0]:.0f} ml, at {values[1]:g} {found[1]:.0f} ml.")
        else:
            told.append(f"Asked for the smallest and the largest, they have {found[0]:.0f} and {found[1]:.0f} ml.")
    return " ".join(told)


def _tell_each(dice: Sequence[float | None] | None, count: int) -> list[str]:
    """Return an overlap below each of `count` pictures, or nothing where there is none."""
    return ["" if value is None else f"{value:.2f}" for value in dice or [None] * count]


def _name_value(name: str, value: float) -> str:
    return f"{value:g} years" if name == "age" else f"Ventricles {value:g}"


def _tell_ventricles(found: float | None) -> str:
    return "" if found is None else f"ventricles {found:.0f} ml"


def _render_steps(figure: Figure) -> str:
    count, brightest = figure.facts["columns"], figure.facts["brightest"]
    titles = [
        ("Clean estimate", "what the volume would be if it stopped here"),
        ("|&gamma;|, the scale", f"full color at {brightest[0]:.2g}"),
        ("|&beta;|, the shift", f"full color at {brightest[1]:.2g}"),
    ]
    shots = "".join(_show(0, row, title, text) for row, (title, text) in enumerate(titles))
    numbers = list(range(1, count + 1))
    charts = "".join(
        draw_line(numbers, values, x_title="Step", y_title=f"Mean |{letter}|", has_marker=True)
        for letter, values in zip("γβ", figure.facts["means"], strict=True)
    )
    scrubber = (
        f'<label class="scrubber"><span>Step <output>1</output> of {count}</span>'
        f'<input type="range" min="1" max="{count}" value="1" step="1" aria-label="Step"></label>'
    )
    return _wrap(figure, f'{scrubber}<div class="shots"{_fit(len(titles))}>{shots}</div>{_box(charts)}')


SCRUB_SCRIPT = """
element.addEventListener("input", (event) => {
  const scrubber = event.target.closest(".scrubber");
  if (!scrubber) return;
  const figure = scrubber.closest(".lesson-figure");
  const index = Number(event.target.value) - 1;
  scrubber.querySelector("output").textContent = event.target.value;
  for (const shot of figure.querySelectorAll(".shot i")) shot.style.setProperty("--x", index);
  for (const marker of figure.querySelectorAll("[data-marker]")) {
    const x = marker.dataset.xs.split(",")[index];
    marker.setAttribute("x1", x);
    marker.setAttribute("x2", x);
  }
});
"""
"""What moves the pictures and the markers of the kind "steps" with their slider."""


def _wrap(figure: Figure, body: str) -> str:
    if not figure.sheet:
        return f'<div class="lesson-figure">{body}</div>'
    facts = figure.facts
    width, height = facts["size"]
    sheet = b64encode(figure.sheet).decode("ascii")
    style = (
        f"--sheet:url(data:image/webp;base64,{sheet});--columns:{facts['columns']};--rows:{facts['rows']};"
        f"--ratio:{width}/{height}"
    )
    return f'<div class="lesson-figure" style="{style}">{body}</div>'


def _show_row(figure: Figure, captions: Sequence[tuple[str, str]], row: int = 0) -> str:
    shots = "".join(_show(column, row, *caption) for column, caption in enumerate(captions))
    return f'<div class="shots"{_fit(len(captions))}>{shots}</div>'


def _fit(count: int) -> str:
    """Return what keeps a few pictures in one row; more wrap as they fit."""
    return f' data-few style="--across:{count}"' if count < _MANY else ""


def _show(column: int, row: int, title: str, text: str) -> str:
    """Return one picture of the sheet; `title` and `text` are HTML."""
    small = f"<small>{text}</small>" if text else ""
    picture = f'<i role="img" aria-label="{title}" style="--x:{column};--y:{row}"></i>'
    return f'<figure class="shot">{picture}<figcaption><b>{title}</b>{small}</figcaption></figure>'


def _say(text: str) -> str:
    return f'<p class="told">{escape(text)}</p>' if text else ""


def _box(charts: str) -> str:
    return f'<div class="charts">{charts}</div>' if charts else ""


def _milliliters(value: float) -> str:
    return f"{value:.1f} ml" if value < 10 else f"{value:.0f} ml"


_RENDERERS: Mapping[str, Callable[[Figure], str]] = {
    "pair": _render_pair,
    "seeds": _render_seeds,
    "covariates": _render_covariates,
    "guidance": _render_guidance,
    "window": _render_window,
    "steps": _render_steps,
}
