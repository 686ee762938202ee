"""Breaks a model in the middle of its sampling as machines do, and stops commands as systems do.

As a script it is the command `vcm` with what it takes to break it: `python tests/breaking.py FAULT ARGUMENTS...`; as
FAULT `training` it trains tiny networks on made-up subjects, slowly enough to be stopped in between; with `killed while
saving` and `killed before the folder appears` the process ends where a batch writes its third case.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

SHAPE = (24, 32, 24)


def ask_for_too_much_memory() -> None:
    torch.empty(2**46)  # 256 TiB: the allocator says no by itself


def fail_as_a_device() -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered in /root/kernel.cu")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


FAULTS: dict[str, Callable[[], None]] = {
    "out of memory": ask_for_too_much_memory,
    "device error": fail_as_a_device,
    "dead worker": die,
}


@contextmanager
def broken(network: nn.Module, fault: Callable[[], None], call: int = 3) -> Iterator[None]:
    """Let a network fail at one of its calls, from then on each time, until the context ends."""
    calls = []

    def fail(*_: object) -> None:
        calls.append(1)
        if len(calls) >= call:
            fault()

    hook = network.register_forward_pre_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def made_up_subjects(cache: Path, seeds: range, contrasts=("t1",), with_tumor=True, workers=None):
    """In place of a simulated cohort: subjects of noise with a cube for a tumor."""
    from vcm.data.cohort import Cohort

    random = np.random.default_rng(seeds.start)
    count = len(seeds)
    tumor = np.zeros((count, *SHAPE), np.uint8)
    tumor[:, 4:9, 8:16, 6:12] = 2
    return Cohort(
        seeds=seeds,
        images={"t1": random.random((count, *SHAPE)).astype(np.float16)},
        tumor=tumor,
        anatomy=random.integers(0, 5, (count, *SHAPE)).astype(np.uint8),
        anatomy_before=random.integers(0, 5, (count, *SHAPE)).astype(np.uint8),
        context=random.random((count, 4)).astype(np.float32),
        volumes_ml=random.random((count, 2)).astype(np.float32),
    )


def make_training_small() -> None:
    """Put a tiny recipe and the made-up subjects where the training of a segmenter looks for its own."""
    from dataclasses import replace

    from vcm.model.segmenter import SegmenterConfig
    from vcm.train import loop, segmenter, stages

    recipe = stages.SegmenterRecipe(
        config=SegmenterConfig(init_filters=8, blocks_down=(1, 1), blocks_up=(1,)),
        loop=loop.LoopConfig(steps=30, learning_rate=1e-3, warmup_steps=2, save_every=4, log_every=1),
        crop=min(SHAPE),
    )
    stages.MINI = replace(stages.MINI, segmenter=recipe)
    segmenter.simulated_cohort = made_up_subjects
    write = loop._Log.write

    def write_slowly(log: loop._Log, entry: dict) -> None:
        write(log, entry)
        time.sleep(0.05)

    loop._Log.write = write_slowly


def die_at_call(owner: object, name: str, call: int) -> None:
    """Let a function of a class or a module end the process at one of its calls, as a kill from outside would."""
    real, calls = getattr(owner, name), []

    def called(*given, **named):
        calls.append(1)
        if len(calls) == call:
            die()
        return real(*given, **named)

    setattr(owner, name, called)


if __name__ == "__main__":
    from vcm.cli import main
    from vcm.sampler import sampling as sampler

    name, *arguments = sys.argv[1:]
    if name == "training":
        make_training_small()
    elif name == "killed while saving":  # the second file of the third case, of three each
        die_at_call(os, "replace", 8)
    elif name == "killed before the folder appears":
        die_at_call(os, "rename", 3)
    elif name in FAULTS:
        calls: list[int] = []
        predict = sampler.Backbone.predict_epsilon

        def fail(self, *given):
            calls.append(1)
            if len(calls) == 3:
                FAULTS[name]()
            return predict(self, *given)

        sampler.Backbone.predict_epsilon = fail
    main(arguments)
