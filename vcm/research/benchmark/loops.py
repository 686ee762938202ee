"""The published loop and ours, as things that can be counted and timed, whole and in parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.job import Job
from vcm.modalities.labels import encode_one_hot
from vcm.modalities.registry import MODALITIES
from vcm.model.vcm import VCM
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest, Preview
from vcm.runtime.clock import Seconds, clocked
from vcm.runtime.tuning import tune
from vcm.sampler import Step, initial_noise, trajectory
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel


def solid_labels(pipeline: Pipeline, share: float = 0.25) -> dict[str, NDArray[np.uint8]]:
    """Return a map (X, Y, Z) for every label modality of a model, its labels as nested balls.

    Args:
        share: the radius of the largest, as a share of the grid's shortest edge.

    Raises:
        ValueError: the model takes no label map.
    """
    shape = pipeline.grid.shape
    distance = np.linalg.norm(np.indices(shape) - (np.array(shape).reshape(3, 1, 1, 1) - 1) / 2, axis=0)
    maps = {}
    for name, count in pipeline.config.adapter.condition_channels.items():
        if MODALITIES[name].kind == "labels":
            layer = np.floor(distance / (min(shape) * share) * count)
            maps[name] = np.clip(count - layer, 0, count).astype(np.uint8)
    if not maps:
        raise ValueError("The benchmark draws label maps, and this model takes none.")
    return maps


def solid_conditions(pipeline: Pipeline) -> dict[str, Tensor]:
    """Return those maps as a VCM takes them, (1, C, X, Y, Z) each."""
    channels = pipeline.config.adapter.condition_channels
    maps = solid_labels(pipeline).items()
    return {name: encode_one_hot(labels, channels[name])[None].to(pipeline.device) for name, labels in maps}


def solid_request(
    pipeline: Pipeline, steps: int, *, seed: int = 0, compare: bool = True, share: float = 0.25
) -> GenerationRequest:
    """Return a request with the model's first label modality drawn as `solid_labels` does."""
    name, labels = next(iter(solid_labels(pipeline, share).items()))
    conditions = {name: Volume(labels, pipeline.grid.affine)}
    return GenerationRequest(conditions, num_inference_steps=steps, seed=seed, compare=compare)


class EncodeEveryStep(VCM):
    """A VCM that encodes its conditions again whenever it is asked, as the published loop does.

    A draft, which the published method lacks, it takes from the features given: it would only make that loop slower.
    """

    def __init__(self, adapter: VCM, conditions: Mapping[str, Tensor]) -> None:
        super().__init__(adapter.config)
        self.load_state_dict(adapter.state_dict(), assign=True)
        self.to(next(adapter.parameters()).device).eval()
        tune(self)
        self._conditions = conditions

    def forward(self, latent: Tensor, epsilon: Tensor, features: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return eps_scale and eps_shift as the VCM does; of the features given only a draft is used."""
        again = self.gather_features(self.read_conditions(self._conditions))
        if self.draft is not None:
            again = torch.cat([again, features[:, again.shape[1] :].to(again.dtype)], dim=1)
        return super().forward(latent, epsilon, again, timesteps)


class WithoutPreviews(Pipeline):
    """A pipeline with the same networks that shows nothing on the way."""

    def __init__(self, pipeline: Pipeline) -> None:
        model = LoadedModel(pipeline.config, pipeline.backbone, pipeline.adapter, hashes={})
        super().__init__(model, segmenter=pipeline.segmenter, precision=pipeline.precision)
        self._nothing = Volume(np.zeros(self.grid.shape, np.float32), self.grid.affine)

    def _preview(self, step: Step) -> Volume:
        return self._nothing


@dataclass(frozen=True, eq=False)
class Loop:
    """A way to a controlled volume and, with `compare`, the uncontrolled one of the same noise.

    With `encodes_every_step` it is the published loop; otherwise conditions are encoded once.
    """

    pipeline: Pipeline
    sampler: str
    steps: int
    encodes_every_step: bool = False
    compare: bool = True


def list_parts(pipeline: Pipeline, conditions: Mapping[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """Return what a run is made of, each as a call of its own."""
    noise = initial_noise(0, pipeline.config.latent_shape).to(pipeline.device)
    timesteps = torch.tensor([500], device=pipeline.device)
    context = torch.full((1, 1, 4), 0.5, device=pipeline.device)
    features = pipeline.adapter.encode_condition(conditions)
    return {
        "prior": lambda: pipeline.backbone.predict_epsilon(noise, timesteps, context),
        "adapter": lambda: pipeline.adapter(noise, noise, features, timesteps),
        "encode": lambda: pipeline.adapter.encode_condition(conditions),
        "decode": lambda: pipeline.backbone.decode(noise),
    }


@torch.no_grad()
def time_part(pipeline: Pipeline, call: Callable[[], Any]) -> Seconds:
    """Return what one of `list_parts` took, in the pipeline's own precision."""
    with pipeline.autocast():
        return clocked(pipeline.device, call)


@torch.no_grad()
def time_loop(loop: Loop, conditions: Mapping[str, Tensor], most_steps: int) -> Seconds:
    """Return what a loop takes from its conditions to its decoded volumes.

    Args:
        most_steps: that are really run; the time of a longer loop is scaled up, since each of its steps costs the same.
    """
    pipeline, device = loop.pipeline, loop.pipeline.device
    adapter = EncodeEveryStep(pipeline.adapter, conditions) if loop.encodes_every_step else pipeline.adapter
    noise = initial_noise(0, pipeline.config.latent_shape)
    run_steps = min(loop.steps, most_steps)
    chains: list[Tensor | None] = [torch.empty(0)]

    def encode() -> None:
        chains[0] = pipeline.adapter.encode_condition(conditions)

    def sample() -> None:
        context = torch.full((1, 1, 4), 0.5)
        for features in chains:
            steps = trajectory(
                pipeline.backbone,
                adapter,
                noise,
                context,
                features,
                num_inference_steps=loop.steps,
                sampler=loop.sampler,
            )
            for _step in islice(steps, run_steps):
                pass

    def decode() -> None:
        for _ in chains:
            pipeline.backbone.decode(noise.to(device))

    if loop.compare:
        chains.append(None)
    with pipeline.autocast():
        # Where it is done again at every step, only a draft is kept of it, which is no part of the published method.
        once = clocked(device, encode)
        if loop.encodes_every_step:
            once = Seconds(0.0, 0.0)
        return once + clocked(device, sample).scaled(loop.steps / run_steps) + clocked(device, decode)


def time_run(pipeline: Pipeline, job: Job) -> Seconds:
    """Return what the pipeline's own run of a job takes, previews and segmentation included."""

    def run() -> None:
        for event in pipeline.run(job):
            assert isinstance(event, Preview) or event.controlled is not None

    return clocked(pipeline.device, run)
