"""Train a painter: what other contrasts look like as T1-weighted, before a VCM learns to make use of it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vcm.model.condition_encoder import draw_modality_keep
from vcm.model.painter import Painter
from vcm.model.sketch import Sketcher, read_given
from vcm.train.loop import LoopConfig, run_loop
from vcm.train.pairs import Pairs

PAINTER_LOOP = LoopConfig(
    steps=1500, learning_rate=4e-3, warmup_steps=50, save_every=100, validate_every=250, ema_decay=0.99
)

_VALIDATED = 8
_FOLDER = "painter"


def train_painter(
    painter: Painter,
    sketcher: Sketcher,
    pairs: Pairs,
    held_out: Pairs,
    out: Path,
    *,
    loop: LoopConfig = PAINTER_LOOP,
    device: str = "cpu",
) -> Painter:
    """Return a painter that has learned from one whole subject a step, going on with its own run in `out`.

    Every contrast is dropped in half of the steps, but never all.

    Args:
        painter: to start from.
        sketcher: whose mean brain it paints over.
        pairs, held_out: subjects to learn from, and others to be measured on.
        out: folder of the VCM's run; the state and the log of a painter of these contrasts lie in one of their own.
    """
    folder = out / "-".join([_FOLDER, *painter.contrasts])

    def loss_function(network: Painter, step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        index = int(torch.multinomial(pairs.sampling_weights, 1, generator=random))
        keep = draw_modality_keep(network.contrasts, 1, 0.5, random)
        error = measure_error(network, sketcher, pairs, index, keep, random)
        # Absolute errors alone would leave what differs most for the last.
        return (error.abs() + 4 * error**2).mean(), {"squared_error": (error.detach() ** 2).mean().item()}

    def validate(network: Painter, step: int) -> dict[str, float]:
        figures = {}
        everything = {name: torch.tensor([True]) for name in network.contrasts}
        for name, keep in {**{each: {each: everything[each]} for each in everything}, "all": everything}.items():
            random = torch.Generator().manual_seed(1)
            subjects = range(min(_VALIDATED, len(held_out) // 2))
            errors = [measure_error(network, sketcher, held_out, index, keep, random) for index in subjects]
            figures[f"psnr_db_{name}"] = float(np.mean([-10 * (error**2).mean().log10().item() for error in errors]))
        return figures

    return run_loop(painter, loss_function, loop, folder, resume=True, device=device, validate=validate)


def set_painters_aside(run_folder: Path) -> None:
    """Keep a new run of a VCM from going on with painters that learned in an earlier one."""
    for folder in run_folder.glob(f"{_FOLDER}-*"):
        aside = folder.with_name(f"previous-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)


def measure_error(
    painter: Painter,
    sketcher: Sketcher,
    pairs: Pairs,
    index: int,
    keep: Mapping[str, Tensor],
    random: torch.Generator,
) -> Tensor:
    """Return what a painter makes of a subject's contrasts, less the subject's own image, (1, 1, X, Y, Z)."""
    image = pairs.image(index)
    given = read_given(pairs.conditions([index], keep, random), keep)
    painted: Tensor = painter(sketcher.mean_brain(image.device), given)
    return painted - image
