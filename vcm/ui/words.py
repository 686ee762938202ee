"""Every sentence that the page makes from numbers, as small escaped HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from vcm.modalities.names import ANATOMY, TUMOR

if TYPE_CHECKING:
    from vcm.ui.sections.run_facts import RunFacts
    from vcm.weights.calibration import Calibration

RUNNING = 'data-kind="running"'
"""In the status area while a run is under way or a scan is being read, and at no other time."""

_ORIGINS = {
    "mini": "Learned from simulated subjects made from one template",
    "brainldm": "Learned from UK Biobank volunteers without tumors",
}
_OTHER_ORIGIN = "A research model"
_REGION_NAMES = {"whole": "Whole tumor", "core": "Tumor core", "enhancing": "Enhancing"}
_CLOSE, _FAIR, _PARTLY = 0.8, 0.6, 0.3


def limits(model_name: str) -> str:
    """Return the one sentence of limits."""
    origin = _ORIGINS.get(model_name, _OTHER_ORIGIN)
    return f"{origin}: for research and teaching only, never for a diagnosis."


def seconds(value: float) -> str:
    """Return a duration as people say it: "8 s", "1 min 20 s"."""
    whole = max(1, round(value))
    return f"{whole} s" if whole < 100 else f"{whole // 60} min {whole % 60} s"


def estimate(value: float | None) -> str:
    """Return the sentence on the time that a run will take."""
    if value is None:
        return "The first run tells how long it takes."
    told = seconds(value).replace(" ", "\u00a0")  # a number and its unit stay in one line
    return f"Takes about {told}."


def status(text: str, notes: Sequence[str] = (), *, kind: str = "idle") -> str:
    """Return the status area: one sentence, and what was changed on the way.

    Args:
        kind: "idle", "running", "done" or "error".
    """
    role = "alert" if kind == "error" else "status"
    listed = "".join(f"<li>{escape(note)}</li>" for note in dict.fromkeys(notes))
    notes_html = f"<ul>{listed}</ul>" if listed else ""
    return f'<div class="status" data-kind="{kind}" role="{role}"><p>{escape(text)}</p>{notes_html}</div>'


def not_started() -> str:
    """Return the status area of a run that the server could not take."""
    return status("The run could not be started; your drawing is kept, so please try again.", kind="error")


def cancelled(what: str = "") -> str:
    """Return the status area of a run that the visitor stopped, and what is shown now, if that is known."""
    return status(f"Cancelled: {what}, and your drawing is kept." if what else "Cancelled: your drawing is kept.")


def note(text: str) -> str:
    """Return a quiet line beside something, or nothing."""
    return f'<p class="note">{escape(text)}</p>' if text else ""


def progress(step: int, num_inference_steps: int, rest: float | None) -> str:
    """Return the status area of a run under way, with its bar and the time left."""
    left = "" if rest is None else f" &middot; about {seconds(rest)} left"
    text = (
        f"Step {step} of {num_inference_steps}{left}" if step < num_inference_steps else "Decoding the volume&hellip;"
    )
    return (
        f'<div class="status" data-kind="running" role="status"><p>{text}</p>'
        f'<progress max="{num_inference_steps}" value="{step}" aria-label="Denoising steps"></progress></div>'
    )


def live(num_inference_steps: int, took: float | None = None) -> str:
    """Return the status area of a quick run after a stroke: under way, or done in so many seconds."""
    if took is None:
        return status("Following your stroke\u2026", kind="running")
    return status(
        f"Live: {num_inference_steps} steps in {took:.1f} s; the full run follows when you rest.", kind="done"
    )


def explored(done: int, total: int) -> str:
    """Return the status area of a lesson under way, with its bar."""
    return (
        f'<div class="status" data-kind="running" role="status"><p>{100 * done // max(total, 1)} % done</p>'
        f'<progress max="{total}" value="{done}" aria-label="Denoising steps"></progress></div>'
    )


def finished(took: float | None, *, is_remembered: bool) -> str:
    """Return the sentence at the end of a run."""
    if is_remembered:
        return "Shown at once: this very recipe had been generated before."
    return "Done." if took is None else f"Done in {seconds(took)}."


def verdict(measured: Mapping[str, Any] | None) -> str:
    """Return in a sentence how well a generated tumor follows what was drawn, or nothing where there is none."""
    whole = (measured or {}).get(TUMOR, {}).get("controlled", {}).get("dice", {}).get("whole")
    return "" if whole is None else f"The tumor {_judge(whole)} (overlap {whole:.2f})."


def edited(*, is_empty: bool, draws_tumor: bool) -> str:
    """Return the status area of a drawing that what is shown was not made from."""
    if not is_empty:
        return status("The drawing has changed: press Generate.")
    return status(f"The drawing is empty: Generate makes a brain without {'a tumor' if draws_tumor else 'labels'}.")


def adherence(measured: Mapping[str, Any] | None) -> str:
    """Return how well the volume follows what was drawn, in words and in a table."""
    if not measured:
        return _card(
            "Does it follow the drawing?",
            "<p>Nothing was measured: this volume follows no drawing, or the model has no segmenter.</p>",
        )
    body = ""
    if TUMOR in measured:
        body += _tumor_words(measured[TUMOR])
    if ANATOMY in measured:
        body += _anatomy_words(measured[ANATOMY])
    return _card(
        "Does it follow the drawing?",
        body + '<p class="fine">Overlap is the Dice score with the drawing that this volume was made from, 0 to '
        "1, by a segmenter that had no part in the generation and makes mistakes of its own.</p>",
    )


def too_small(calibration: Calibration | None) -> tuple[float, str] | None:
    """Return below how many millilitres a tumor is likely to be left out, and that in a sentence; None if unknown."""
    if calibration is None:
        return None
    smallest = calibration.smallest_followed
    if smallest is not None:
        told = f"This is less than {smallest.drawn_ml:.0f} ml: the model often leaves out tumors this small."
        return smallest.drawn_ml, told
    followed = [lesion.drawn_ml for lesion in calibration.lesions if lesion.is_followed]
    if not followed:
        return None
    told = f"No test tumor below {min(followed):.0f} ml came out where it was drawn: this one is likely to be left out."
    return min(followed), told


def ceilings(calibration: Calibration | None) -> str:
    """Return what the overlap of a generated tumor has to be held against, or nothing where it was not measured."""
    if calibration is None or calibration.ceilings is None:
        return ""
    originals, round_trips = calibration.ceilings
    return note(
        f"The segmenter's own limit, over {len(calibration.lesions)} test subjects with tumors of all sizes: an "
        f"overlap of {originals:.2f} on the simulated scans, {round_trips:.2f} after the autoencoder's round trip; "
        "a large tumor can lie above."
    )


def nothing_measured() -> str:
    """Return what stands in place of adherence where no condition was followed."""
    return _card("Does it follow the drawing?", "<p>Not applicable: this volume was generated without a condition.</p>")


def not_of_this_drawing() -> str:
    """Return what stands in place of adherence where a drawing was put on the page that nothing was made from yet."""
    return _card("Does it follow the drawing?", "<p>What is shown was made before: press Generate.</p>")


def not_measured_yet() -> str:
    """Return what stands in place of adherence until a run is done."""
    return _card("Does it follow the drawing?", "<p>Measured as soon as the volume is there.</p>")


def not_measured_quick() -> str:
    """Return what stands in place of adherence beside a quick volume."""
    return _card("Does it follow the drawing?", "<p>A quick volume is not measured: the full run is.</p>")


def files_of_before() -> str:
    """Return what stands below the downloads while a quick volume is shown."""
    return note("Of the run before: a quick volume has no files.")


def nothing_finished() -> str:
    """Return what stands in place of adherence where the only run came to no end."""
    return _card("Does it follow the drawing?", "<p>Not measured: the run was stopped before its end.</p>")


def run_facts(facts: RunFacts) -> str:
    """Return a finished run in one line of plain text."""
    steps = facts.num_inference_steps
    parts = [f"Seed {facts.seed}", f"guidance {facts.guidance_scale:g}", f"{steps} step{'s' if steps != 1 else ''}"]
    parts.append(", ".join(facts.conditions).lower() or "no condition")
    parts += [] if facts.dice is None else [f"overlap {facts.dice:.2f}"]
    return " \u00b7 ".join(parts)


def comparison(
    titles: tuple[str, str], facts: tuple[RunFacts, RunFacts], distance: float, *, is_same_drawing: bool
) -> str:
    """Return what stands in place of adherence while two runs are compared; what differs stands out.

    Args:
        titles: of A and B.
        facts: of A and B.
        distance: mean absolute difference of their volumes, as a share of the intensity range.
        is_same_drawing: whether both were made from one drawing.
    """
    rows = [
        ("Drawing", *(("the same", "the same") if is_same_drawing else ("its own", "another"))),
        ("Overlap", *("\u2013" if each.dice is None else f"{each.dice:.2f}" for each in facts)),
        ("Seed", *(str(each.seed) for each in facts)),
        ("Guidance", *(f"{each.guidance_scale:g}" for each in facts)),
        ("Steps", *(str(each.num_inference_steps) for each in facts)),
        ("Follows", *(", ".join(each.conditions) or "no condition" for each in facts)),
    ]
    cells = ""
    for name, *values in rows:
        tag = "td" if values[0] == values[1] else "td data-differs"
        cells += f'<tr><th scope="row">{name}</th>' + "".join(f"<{tag}>{escape(v)}</td>" for v in values) + "</tr>"
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    text = f"<p>Over the whole volume they differ by {100 * distance:.1f} % of the intensity range on average.</p>"
    table = f'<table class="comparison"><thead><tr><td></td>{head}</tr></thead><tbody>{cells}</tbody></table>'
    return _card("What differs?", text + table)


def _tumor_words(tumor: Mapping[str, Any]) -> str:
    controlled, uncontrolled = tumor["controlled"], tumor.get("uncontrolled")
    whole = controlled["dice"]["whole"]
    found_ml = controlled["found_ml"]["whole"]
    if whole is None:
        found = "none was found" if found_ml < 0.05 else f"{found_ml:.1f} ml were found"
        return f"<p>The map asked for a brain without a tumor, and {found} in the volume.</p>"
    floor = ""
    if uncontrolled is not None:
        floor = f" Without control, the same noise scores {uncontrolled['dice']['whole']:.2f}."
    text = f"<p>The generated tumor <strong>{_judge(whole)}</strong>: they overlap by {whole:.2f}.{floor}</p>"
    rows = [
        (name, controlled["dice"][region], f"{tumor['drawn_ml'][region]:.1f}", f"{controlled['found_ml'][region]:.1f}")
        for region, name in _REGION_NAMES.items()
    ]
    head = "<tr><th>Region</th><th>Overlap</th><th>Drawn, ml</th><th>Found, ml</th></tr>"
    cells = "".join(
        f"<tr><th>{name}</th><td>{_bar(dice)}</td><td>{drawn}</td><td>{found}</td></tr>"
        for name, dice, drawn, found in rows
    )
    return f"{text}<table><thead>{head}</thead><tbody>{cells}</tbody></table>"


def _judge(dice: float) -> str:
    if dice >= _CLOSE:
        return "follows the drawing closely"
    if dice >= _FAIR:
        return "follows the drawing"
    return "follows the drawing in part" if dice >= _PARTLY else "hardly follows the drawing"


def _anatomy_words(anatomy: Mapping[str, Any]) -> str:
    scores = anatomy["controlled"]["dice"]
    rows = [f"<tr><th>{escape(name.capitalize())}</th><td>{_bar(dice)}</td></tr>" for name, dice in scores.items()]
    return f"<table><thead><tr><th>Anatomy</th><th>Overlap</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _bar(dice: float | None) -> str:
    if dice is None:
        return '<span class="none">not drawn</span>'
    return f'<meter min="0" max="1" value="{dice:.3f}"></meter> {dice:.2f}'


def _card(title: str, body: str) -> str:
    return f'<section class="adherence"><h3>{title}</h3>{body}</section>'
