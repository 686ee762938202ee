"""The training loop that all four trainings share: warm-up and cosine, clipping, EMA, checkpoints, resume, a log."""

from __future__ import annotations

import copy
import importlib.util
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vcm.data.cohort import write_json
from vcm.runtime.precision import autocast
from vcm.runtime.tuning import tune
from vcm.train.optimizer import build_optimizers
from vcm.train.team import find_team
from vcm.whole_files import write_whole

logger = logging.getLogger(__name__)

STATE_FILE = "state.pt"
LOG_FILE = "log.jsonl"
BEST_FILE = "best.pt"

_TEAM_STRIDE = 8_388_617
"""Between the seeds of the processes of a launch: more than any number of steps, and no multiple of 2**32, of which a
generator on the CPU keeps only the rest."""

Network = TypeVar("Network", bound=nn.Module)
LossFunction = Callable[[Network, int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""(network, step, random numbers of this step) to (loss, figures for the log)."""
Validation = Callable[[Network, int], dict[str, float]]
"""(the averaged network, step) to figures for the log; it may write pictures as well."""


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to learn; the schedule is a linear warm-up and a cosine down to a twentieth.

    With `patience` the training ends once the "loss" of so many validations in a row was no lower than one before them,
    and the averages of that one are what comes out; without (0) it never ends early. With a `kernel_rate` the kernels
    of convolutions and linear layers are trained by Muon at that rate, and the rest by AdamW at `learning_rate`.
    """

    steps: int
    learning_rate: float
    warmup_steps: int = 100
    weight_decay: float = 0.0
    ema_decay: float = 0.999
    clip_norm: float = 1.0
    save_every: int = 200
    validate_every: int = 500
    log_every: int = 20
    seed: int = 0
    patience: int = 0
    kernel_rate: float | None = None


def run_loop(
    network: Network,
    loss_function: LossFunction[Network],
    config: LoopConfig,
    out: str | Path,
    *,
    resume: bool = False,
    device: torch.device | str = "cpu",
    validate: Validation[Network] | None = None,
    board: bool = False,
) -> Network:
    """Train `network` and return its exponential moving average, in eval mode.

    The state (weights, averages, optimizer, step) goes to `out/state.pt`, atomically, every `save_every` steps; the log
    to `out/log.jsonl`. With `resume` a state found there is continued, and the random numbers of a step depend only on
    the seed and the step, so a resumed run sees the same batches as one that was never killed. The processes of one
    launch train together, see `vcm.train.team`.

    Args:
        board: also write the log for TensorBoard, where that is installed.

    Raises:
        FileExistsError: there is a state in `out` and `resume` was not asked for.
        FloatingPointError: the loss or its gradient is not finite.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    state_path = folder / STATE_FILE
    team = find_team(str(device))
    network = network.to(device).train()
    tune(network)
    averaged = copy.deepcopy(network).requires_grad_(False)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizers = build_optimizers(network, config.learning_rate, config.kernel_rate, config.weight_decay)
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    first = 0
    if state_path.exists():
        if not resume:
            raise FileExistsError("the output folder holds a run already; continue it with --resume or choose another")
        state = torch.load(state_path, map_location=device, weights_only=True)
        network.load_state_dict(state["network"])
        averaged.load_state_dict(state["averaged"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        first = state["step"]
        logger.info("resuming at step %d of %d", first, config.steps)
    team.wait()  # all have looked for a state before there is one
    log = _Log(folder, board) if team.is_first else None
    if team.is_first:
        write_json(folder / "loop.json", asdict(config))
    best = _read_best(folder, first) if config.patience else None

    before, started = read_seconds(folder, first), time.monotonic()
    figures_sum: dict[str, float] = {}
    figures_count = 0
    for step in range(first, config.steps):
        if best is not None and step - best["step"] >= config.patience * config.validate_every:
            logger.info("no lower loss since step %d: the training ends", best["step"])
            break
        groups = (group for optimizer in optimizers for group in optimizer.param_groups)
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * _schedule(step, config)
        random = torch.Generator().manual_seed(config.seed * 10_000_019 + step + team.index * _TEAM_STRIDE)
        with autocast(device):
            loss, figures = loss_function(network, step, random)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} at step {step}; the last saved state is unharmed")
        network.zero_grad(set_to_none=True)
        loss.backward()
        team.average_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient is {norm.item()} at step {step}; the last saved state is unharmed")
        for optimizer in optimizers:
            optimizer.step()
        _update_average(averaged, network, min(config.ema_decay, (1 + step) / (10 + step)))

        figures = {"loss": loss.item(), "gradient_norm": norm.item(), **figures}
        figures_sum = {name: figures_sum.get(name, 0.0) + value for name, value in figures.items()}
        figures_count += 1
        done = step + 1
        if log is not None and (done % config.log_every == 0 or done == config.steps):
            means = {name: value / figures_count for name, value in figures_sum.items()}
            seconds = time.monotonic() - started
            times = {"seconds": before + seconds, "seconds_a_step": seconds / (done - first)}
            log.write({"step": done, **means, **times})
            figures_sum, figures_count = {}, 0
        if validate is not None and (done % config.validate_every == 0 or done == config.steps):
            found: dict[str, float] = {}
            if log is not None:
                with torch.no_grad(), autocast(device):
                    found = validate(averaged.eval(), done)
                log.write({"step": done, "validation": found})
            found = team.share(found)  # else two that differ in the last bit might end at different steps
            if config.patience and (best is None or found["loss"] < best["loss"]):
                best = {"step": done, "loss": found["loss"], "averaged": averaged.state_dict()}
                if team.is_first:
                    with write_whole(folder / BEST_FILE) as file:
                        torch.save(best, file)
        # After the validation: else a run that is killed during it would never do it again.
        if team.is_first and (done % config.save_every == 0 or done == config.steps):
            _save_state(state_path, network, averaged, optimizers, done)
    if log is not None:
        log.close()
    team.wait()
    if best is not None:
        averaged.load_state_dict(torch.load(folder / BEST_FILE, map_location=device, weights_only=True)["averaged"])
    return averaged.eval()


def count_steps(out: str | Path, config: LoopConfig) -> int:
    """Return after how many steps the weights were taken that a finished run came to."""
    best = _read_best(Path(out), config.steps) if config.patience else None
    return config.steps if best is None else int(best["step"])


def _read_best(folder: Path, first: int) -> dict[str, Any] | None:
    """Return the best validation of an earlier part of the run; None where it is of steps that are done again."""
    path = folder / BEST_FILE
    best = torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
    return best if best is not None and best["step"] <= first else None


def _schedule(step: int, config: LoopConfig) -> float:
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def _update_average(averaged: nn.Module, network: nn.Module, decay: float) -> None:
    targets = [p.data for p in averaged.parameters()]
    sources = [p.data for p in network.parameters()]
    torch._foreach_lerp_(targets, sources, 1 - decay)
    for target, source in zip(averaged.buffers(), network.buffers(), strict=True):
        target.copy_(source)


def _save_state(
    path: Path, network: nn.Module, averaged: nn.Module, optimizers: Sequence[torch.optim.Optimizer], step: int
) -> None:
    state = {
        "network": network.state_dict(),
        "averaged": averaged.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "step": step,
    }
    with write_whole(path) as file:
        torch.save(state, file)


def read_seconds(folder: Path, step: int | None = None) -> float:
    """Return how long a run in `folder` took up to a step, or in all, whatever stopped it between; 0 without a log."""
    entries = list(_read_log(folder / LOG_FILE))
    told = [entry for entry in entries if "seconds" in entry and (step is None or entry["step"] <= step)]
    return float(told[-1]["seconds"]) if told else 0.0


def _read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of a log, if there is one; a line that a full disk has cut short is left out."""
    for line in path.read_text().splitlines() if path.is_file() else ():
        with suppress(json.JSONDecodeError):
            yield json.loads(line)


class _Log:
    """What a run says: lines of JSON in its folder, and on request the same for TensorBoard."""

    def __init__(self, folder: Path, board: bool) -> None:
        self._path = folder / LOG_FILE
        if self._path.is_file() and not self._path.read_text().endswith("\n"):
            with open(self._path, "a") as log:
                log.write("\n")  # after a line that was cut short
        self._board: Any = None
        if board and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(folder)

    def write(self, entry: dict[str, Any]) -> None:
        with open(self._path, "a") as log:
            log.write(json.dumps(entry) + "\n")
        logger.info(" ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in entry.items()))
        if self._board is None:
            return
        told = entry.get("validation", entry)
        part = "validation" if "validation" in entry else "training"
        for name, value in told.items():
            if name != "step":
                self._board.add_scalar(f"{part}/{name}", value, entry["step"])
        self._board.flush()

    def close(self) -> None:
        if self._board is not None:
            self._board.close()
