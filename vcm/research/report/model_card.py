"""The model card: what a model is, how it was made, and every figure of its evaluation beside its goal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vcm.data import simulate
from vcm.metrics import BOOTSTRAP_RESAMPLES, Estimate
from vcm.model.config import ModelConfig
from vcm.research.evaluate.evaluate import EvaluationPlan
from vcm.research.evaluate.modalities import SECTION, tabulate
from vcm.research.report.source_line import spell_command, tell_source
from vcm.train import diffusion, segmenter
from vcm.train.record import TRAINING_FILE, read_training
from vcm.weights.checkpoint import (
    AUTOENCODER_FILE,
    CONFIG_FILE,
    DIFFUSION_FILE,
    SEGMENTER_FILE,
    SUMS_FILE,
    VCM_FILE,
    WHITENING,
    CheckpointError,
    hash_weights,
    verify_files,
    write_bytes,
)
from vcm.weights.segmenter import load_segmenter

CARD_FILE = "README.md"

Training = Mapping[str, list[dict[str, Any]]]
"""Every stage's runs, as `training.json` holds them."""

TEMPLATE_NOTICE = (
    "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill "
    "University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose "
    "and without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and "
    "McGill University make no representations about the suitability of this software for any purpose. It is provided "
    '"as is" without express or implied warranty. The authors are not responsible for any data loss, equipment damage, '
    "property loss, or injury to subjects or patients resulting from the use or misuse of this software package."
)

_COLUMNS = ("figure", "found [95 % interval]", "n", "goal", "")
_SECTIONS = ("autoencoder", "adherence", "priors")
_STAGES = {
    "autoencoder": ("autoencoder", 0, "with and without tumors", "compresses images"),
    "diffusion": ("diffusion network", diffusion.FIRST_SEED, "tumor-free only", "is frozen afterwards"),
    "vcm": ("VCM", 0, "with and without tumors", "brings the tumor"),
    "segmenter": ("segmenter", segmenter.FIRST_SEED, "with and without tumors", "only ever measures"),
}
"""What a stage makes, the first seed of its simulated subjects, which they are, and what its network does."""

_ROLES = {
    AUTOENCODER_FILE: "image compressor, a factor of 4 along each axis",
    DIFFUSION_FILE: "diffusion network of the frozen backbone, with its whitening maps",
    VCM_FILE: "the Volumetric Conditioning Module",
    SEGMENTER_FILE: "independent judge, for measuring only",
}
_HEADER = """\
---
license: apache-2.0
tags:
  - medical-imaging
  - mri
  - brain
  - 3d
  - latent-diffusion
  - controllable-generation
  - simulated-data
---
"""


@dataclass(frozen=True)
class Goal:
    """Bounds that a figure must keep; either may be missing."""

    least: float = -math.inf
    most: float = math.inf
    unit: str = ""

    def is_reached(self, value: float) -> bool:
        """Whether a value keeps both bounds, themselves included."""
        return self.least <= value <= self.most

    def __str__(self) -> str:
        if math.isinf(self.most):
            return f"at least {self.least:g}{self.unit}"
        if math.isinf(self.least):
            return f"at most {self.most:g}{self.unit}"
        return f"{self.least:g} to {self.most:g}{self.unit}"


@dataclass(frozen=True)
class Figure:
    """One line of the card's table: a measured figure, and its goal where it has one."""

    name: str
    estimate: Estimate
    goal: Goal | None = None
    unit: str = ""
    digits: int = 3

    @property
    def verdict(self) -> str:
        """ "reached" or "not reached", computed from the figure as measured; empty without a goal."""
        if self.goal is None:
            return ""
        value = self.estimate["value"]
        return "reached" if value is not None and self.goal.is_reached(value) else "**not reached**"

    @property
    def found(self) -> str:
        """The figure with its interval."""
        value, interval = self.estimate["value"], self.estimate["interval"]
        if value is None:
            return "could not be measured"
        told = f"{value:.{self.digits}f}{self.unit}"
        if interval is not None:
            told += f" [{interval[0]:.{self.digits}f}, {interval[1]:.{self.digits}f}]"
        return told

    @property
    def row(self) -> tuple[str, ...]:
        """Cells: name, found, count, goal, verdict."""
        return self.name, self.found, str(self.estimate["count"]), str(self.goal or ""), self.verdict


_GAINS = {
    "lowres, 4 mm": ("From slices of 4 mm: PSNR above cubic interpolation", None),
    "lowres, 6 mm": ("From slices of 6 mm: PSNR above cubic interpolation", Goal(1, unit=" dB")),
    "lowres, 8 mm": ("From slices of 8 mm: PSNR above cubic interpolation", Goal(2, unit=" dB")),
    "t2 + flair": ("From T2 and FLAIR: PSNR against a U-Net regressor's (below 0: worse)", Goal(-2, unit=" dB")),
}
"""Rows of the table of conditions that stand among the figures, by how much they exceed what each is held against."""


def write_model_card(folder: str | Path, evaluation: Mapping[str, Any]) -> Path:
    """Write README.md of a model folder from what `vcm.research.evaluate.evaluate.evaluate` measured; returns its path.

    Args:
        folder: of the model, with its weights and SHA256SUMS.
        evaluation: the content of evaluation.json, all sections measured.

    Raises:
        ValueError: a section is missing, or the evaluation is of other weights, or by another segmenter.
        CheckpointError: a file of the model is missing or damaged.
    """
    folder = Path(folder)
    missing = [name for name in _SECTIONS if name not in evaluation["sections"]]
    if missing:
        raise ValueError(f"The evaluation lacks the section {missing[0]!r}: run it to its end.")
    for name, digest in verify_files(folder, [CONFIG_FILE, *_ROLES]).items():
        if evaluation["weights"].get(name, digest) != digest:
            raise ValueError(f"The evaluation is of another {name} than the folder's: evaluate this model.")
    if evaluation.get("segmenter") not in (None, hash_weights(load_segmenter(folder, torch.device("cpu")))):
        raise ValueError("The evaluation is by another segmenter than the folder's: evaluate this model.")
    config = ModelConfig.from_json((folder / CONFIG_FILE).read_text())
    training = read_training(folder)
    figures = list(collect_figures(evaluation["sections"]))
    parts = [
        _HEADER,
        _introduce(config, training),
        _report_figures(figures, config, evaluation),
        _report_sizes(evaluation, config.name),
        *([_report_modalities(evaluation, config.name)] if SECTION in evaluation["sections"] else []),
        _tell_data(training),
        _tell_training(config, training),
        _list_files(folder),
        _tell_licence(),
    ]
    path = folder / CARD_FILE
    write_bytes(path, "\n".join(parts).encode())
    return path


def collect_figures(sections: Mapping[str, Any]) -> Iterator[Figure]:
    """Yield every figure of an evaluation, beside its goal, in the order of the card."""
    compressor, adherence, priors = (sections[name] for name in _SECTIONS)
    clear, margin = f"{adherence['clear_lesion_mm']:g} mm", f"{adherence['margin_mm']:g} mm"
    yield Figure("Autoencoder: PSNR, whole volume", compressor["psnr_whole_db"], Goal(26, unit=" dB"), " dB", 2)
    yield Figure("Autoencoder: PSNR, inside the head", compressor["psnr_head_db"], None, " dB", 2)
    yield Figure("Segmenter: whole-tumor Dice on originals", compressor["tumor_dice_originals"])
    yield Figure("Segmenter: whole-tumor Dice after the round trip", compressor["tumor_dice_round_trip"])
    yield Figure("Share of the tumor's Dice that the autoencoder keeps", compressor["tumor_dice_kept"], Goal(0.9))
    yield Figure(f"Whole-tumor Dice, lesions from {clear}", adherence["whole_tumor_dice"], Goal(0.75))
    yield Figure("Whole-tumor Dice on originals (ceiling)", adherence["whole_tumor_ceiling"])
    yield Figure(
        f"Whole-tumor Dice from {clear}, as a share of that on originals", adherence["share_of_ceiling"], Goal(0.85)
    )
    yield Figure("Whole-tumor Dice of the uncontrolled volume (floor)", adherence["whole_tumor_floor"], Goal(most=0.1))
    yield Figure("Whole-tumor Dice with `anatomy` as well", adherence["whole_tumor_dice_with_anatomy"])
    yield Figure("Tumor-core Dice", adherence["tumor_core_dice"])
    yield Figure("Tumor-core Dice on originals (ceiling)", adherence["tumor_core_ceiling"])
    yield Figure("Enhancing-tumor Dice", adherence["enhancing_dice"])
    yield Figure("Enhancing-tumor Dice on originals (ceiling)", adherence["enhancing_ceiling"])
    yield Figure("Tumor volume, drawn against generated: correlation", adherence["volume"]["correlation"])
    yield Figure("Tumor volume, drawn against generated: slope", adherence["volume"]["slope"])
    yield Figure("Ventricle Dice with `anatomy`", adherence["ventricle_dice"], Goal(0.85))
    yield Figure("Ventricle Dice on originals (ceiling)", adherence["ventricle_ceiling"])
    outside = f"Mean absolute change further than {margin} from the tumor"
    yield Figure(outside, adherence["change_outside"], Goal(most=0.03), digits=4)
    yield Figure("Mean absolute change inside the tumor", adherence["change_inside"], digits=4)
    for name, title in (("ventricular_volume", "Ventricular"), ("brain_volume", "Brain")):
        yield Figure(f"{title} volume, asked against measured: correlation", priors[name]["correlation"], Goal(0.8))
        yield Figure(f"{title} volume, asked against measured: slope", priors[name]["slope"], Goal(0.7, 1.3))
    gains = sections.get(SECTION, {}).get("gains", {})
    for row, (told, goal) in _GAINS.items():
        if row in gains:
            yield Figure(told, gains[row], goal, " dB", 2)
    yield Figure("Cubic-kernel MMD, generated to simulated", priors["mmd_generated"])
    yield Figure("Cubic-kernel MMD, simulated to simulated", priors["mmd_simulated"])
    yield Figure("MS-SSIM between generated subjects", priors["ms_ssim_generated"])
    yield Figure("MS-SSIM between simulated subjects", priors["ms_ssim_simulated"])


def summarize_goals(evaluation: Mapping[str, Any], name: str) -> str:
    """Return the figures that have a goal, as a Markdown table, and how the model of this name gives them."""
    rows = (figure.row for figure in collect_figures(evaluation["sections"]) if figure.goal is not None)
    return f"{markdown_table(_COLUMNS, rows)}\n{_tell_source(evaluation, name)}"


def _introduce(config: ModelConfig, training: Training) -> str:
    shape = " x ".join(str(size) for size in config.grid.shape)
    *others, last = (f"`{name}`" for name in config.adapter.condition_channels)
    modalities = f"{', '.join(others)} and {last}, alone or together" if others else f"{last} alone"
    return f"""\
# {config.name}: a frozen 3D diffusion model of brain MRI, and a Volumetric Conditioning Module that steers it

Draw a tumor, and the model makes a contrast-enhanced T1 volume ({shape} voxels of 2 mm) that has it there; the same
noise without the drawing gives the same brain without the tumor. The
conditions are {modalities}.

**The model has learned from {_name_sources(training)}. It is not clinical**: for research and teaching
only, never for a diagnosis.

```python
from vcm import GenerationRequest, Pipeline, Volume

pipeline = Pipeline.from_pretrained("{config.name}")
result = pipeline(GenerationRequest(conditions={{"tumor": Volume.load("lesion.nii.gz", labels=True)}}, seed=7))
```
"""


def _name_sources(training: Training) -> str:
    simulated = "simulated subjects made from one template"
    own = " and ".join(_STAGES[stage][0] for stage in training if _learned_from_own_data(training[stage]))
    return f"{simulated}, its {own} also from data of its maker's own" if own else simulated


def _learned_from_own_data(runs: Iterable[Mapping[str, Any]]) -> bool:
    return any(run.get("own_data") for run in runs)


def _report_figures(figures: list[Figure], config: ModelConfig, evaluation: Mapping[str, Any]) -> str:
    plan = evaluation["plan"]
    short = [figure.name for figure in figures if "not" in figure.verdict]
    goals = sum(figure.goal is not None for figure in figures)
    told = f"{goals - len(short)} of {goals} goals are reached."
    if short:
        told += f" Not reached: {'; '.join(short)}."
    table = markdown_table(_COLUMNS, (figure.row for figure in figures))
    return f"""\
## Figures

```bash
{_spell_command(config.name, plan)}
```

Measured on simulated test subjects that nothing was trained on: {plan["subjects"]} with a tumor (from seed
{plan["first_seed"]}), and {plan["uncontrolled"]} uncontrolled samples; {plan["num_inference_steps"]} steps, guidance
{plan["guidance_scale"]:g}, {_tell_precision(evaluation)}. Intervals are from {BOOTSTRAP_RESAMPLES} bootstrap resamples
of the n subjects, or pairs of subjects. Dice is between what was drawn and what the independent segmenter finds; the
ceiling is its Dice on the simulated subjects that the drawings come from. Intensities go from 0 to 1.

{told}

{table}"""


def _tell_source(evaluation: Mapping[str, Any], name: str) -> str:
    facts = f"seeds from {evaluation['plan']['first_seed']}, {_tell_precision(evaluation)}"
    return tell_source(_spell_command(name, evaluation["plan"]), evaluation["weights"], facts)


def _spell_command(name: str, plan: Mapping[str, Any]) -> str:
    options = {
        "subjects": "--subjects",
        "uncontrolled": "--uncontrolled",
        "modality_subjects": "--modality-subjects",
        "first_seed": "--seed",
    }
    return spell_command(f"vcm evaluate --model {name} --out evaluation", plan, EvaluationPlan(), options)


def _tell_precision(evaluation: Mapping[str, Any]) -> str:
    precision = str(evaluation["precision"])
    has_notes = bool(evaluation["sections"].get(SECTION, {}).get("notes"))
    return f"{precision}, but where a note of the model card says otherwise" if has_notes else precision


def _report_sizes(evaluation: Mapping[str, Any], name: str) -> str:
    by_size = evaluation["sections"]["adherence"]["by_size"]
    figures = [Figure(size, estimate) for size, estimate in by_size.items()]
    rows = ((figure.name, figure.found, str(figure.estimate["count"])) for figure in figures)
    return f"""\
Whole-tumor Dice by the diameter of the largest lesion, as a sphere of its volume:

{markdown_table(("diameter", "Dice [95 % interval]", "n"), rows)}
{_tell_source(evaluation, name)}"""


def _report_modalities(evaluation: Mapping[str, Any], name: str) -> str:
    section = evaluation["sections"][SECTION]
    titles, *rows = tabulate(section)
    notes = "".join(f"\n{note}\n" for note in section.get("notes", ()))  # by hand: of what was measured apart
    return f"""\
## The conditions, alone and together

Against the T1 of {evaluation["plan"]["modality_subjects"]} test subjects with a tumor, inside the head; beside other
conditions `lowres` has slices of {section["slice_mm"]:g} mm, the hole of the partial scan is the tumor with 6 mm around
it. A brain made from a tumor map alone has no reason to be the subject's: its PSNR is what chance gives. With `partial`
all outside the hole is the scan itself, so only the hole's own column tells something. Means; the intervals are in the
evaluation's file.

{markdown_table(titles, rows)}{notes}
{_tell_source(evaluation, name)}"""


def _tell_data(training: Training) -> str:
    rows = []
    for stage, (name, first, subjects, role) in _STAGES.items():
        runs = training.get(stage, ())
        if simulated := [run["subjects"] for run in runs if not run.get("own_data")]:
            rows.append((name, _seeds(first, max(simulated)), subjects, role))
        if own := [run["subjects"] for run in runs if run.get("own_data")]:
            rows.append((name, "none", f"{max(own)} of its maker's own", role))
    is_simulated = not any(_learned_from_own_data(runs) for runs in training.values())
    patients = "There is no patient in the data. " if is_simulated else ""
    return f"""\
## Data: {"simulated, from one template" if is_simulated else "simulated, and its maker's own"}

Every simulated subject is the MNI ICBM 152 template under a random smooth deformation, with the contrasts of MRI drawn
from its tissue fractions, a head around it and, in nine of ten, one to three tumors with BraTS labels (1 necrotic core,
2 edema, 3 enhancing). {patients}A simulated subject is a function of its seed; those from
{simulate.FIRST_TEST_SEED} on are for tests, and `vcm evaluate` refuses all others.

{markdown_table(("part", "seeds", "subjects", "what it does"), rows)}

The uncontrolled volume is therefore a healthy brain, since the diffusion network has never seen a tumor; the VCM
changes only its prediction of the noise. The segmenter shares no subject with the others, and took no part in their
training, in guidance or in the choice of a checkpoint.
"""


def _seeds(first: int, count: int) -> str:
    return f"{first} to {first + count - 1}"


def _tell_training(config: ModelConfig, training: Training) -> str:
    commands = "\n".join(
        f"vcm train {stage}{'' if run.get('own_data') else ' --samples ' + str(run['subjects'])} --steps {run['steps']}"
        f"{' --from-weights' if run['from_weights'] else ''}"
        f"{' --data my_data' if run.get('own_data') else ''} --out model"
        f"{'  # but: ' + run['note'] if 'note' in run else ''}"
        for stage, runs in training.items()
        for run in runs
    )
    return f"""\
## Training

With the shipped commands, each of which goes on after being killed (`--resume`), but for what stands behind a "but": no
option sets that. `{TRAINING_FILE}` is the record:

```bash
{commands}
```
{_tell_draft(config)}"""


def _tell_draft(config: ModelConfig) -> str:
    """Return what a sample makes of a VCM's draft, or nothing where it makes none."""
    draft = config.adapter.draft
    if draft is None:
        return ""
    return f"""
By its configuration a sample trusts the draft {draft.trust_factor or 1:g} times as much as training has found right for
a single step, at most wholly, and takes its variance for {draft.temperature:g} of what the draft says.
"""


def _list_files(folder: Path) -> str:
    rows = []
    for name, role in _ROLES.items():
        size, parameters = (folder / name).stat().st_size, count_parameters(folder / name)
        rows.append((f"`{name}`", f"{size / 1e6:.2f} MB", f"{parameters:,}", role))
    return f"""\
## Files

Weights are in half precision; `{SUMS_FILE}` is checked at every load.

{markdown_table(("file", "size", "parameters", "what it is"), rows)}"""


def count_parameters(path: Path) -> int:
    """Return how many numbers the weights in a safetensors file are, the whitening maps left out.

    Raises:
        CheckpointError: it is no safetensors file.
    """
    try:
        with safe_open(path, framework="np") as weights:
            names = [name for name in weights.keys() if name not in WHITENING]  # noqa: SIM118 (no mapping)
            return sum(math.prod(weights.get_slice(name).get_shape()) for name in names)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path.name} is damaged or not a safetensors file.") from error


def _tell_licence() -> str:
    return f"""\
## Licence and credits

Apache-2.0. The method is the Volumetric Conditioning Module of Suhyun Ahn, Wonjung Park, Jihoon Cho, Seunghyuck Park
and Jinah Park (WACV 2025, [arXiv 2410.21826](https://arxiv.org/abs/2410.21826)); this is an independent implementation.
The shape of the latent and the covariates follow BrainLDM (Pinaya et al., 2022).

The simulated subjects are made from the ICBM 152 nonlinear symmetric 2009a template (Fonov et al., NeuroImage 54, 2011;
Fonov et al., NeuroImage 47, 2009), whose notice goes along:

> {TEMPLATE_NOTICE}
"""


def markdown_table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
