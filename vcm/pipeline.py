"""Request in, previews and result out: the one place where all parts meet."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vcm.job import Job, Outcome, Sample
from vcm.modalities.adherence import Segmentation, measure_adherence
from vcm.modalities.base import Given, PreparedCondition
from vcm.modalities.image_conditions import scale_intensities
from vcm.modalities.registry import check_modalities, get_modality, list_by_precedence, prepare_conditions
from vcm.modalities.scans import Scan
from vcm.model.config import NUM_COVARIATES, CovariateConfig, Grid, ModelConfig
from vcm.recipe import Environment, build_recipe, hash_array
from vcm.request import GenerationRequest, GenerationResult, Preview
from vcm.runtime.cache import BoundedCache
from vcm.runtime.memory import keep_freed_memory
from vcm.runtime.precision import has_native_bfloat16
from vcm.runtime.preview import LinearDecoder, choose_block
from vcm.runtime.tuning import tune
from vcm.sampler import Step, initial_noise, trajectory
from vcm.volume import Volume
from vcm.weights.checkpoint import (
    BRAIN_FILE,
    SEGMENTER_FILE,
    VCM_FILE,
    LoadedModel,
    load_backbone,
    load_model,
    load_reference,
    verify_files,
)
from vcm.weights.pretrained import EMBEDDED, find_model, find_vcm_weights
from vcm.weights.share import attach_vcm

if TYPE_CHECKING:
    from vcm.model.segmenter import Segmenter

PRECISIONS = ("float32", "bfloat16", "auto")

MAX_FEATURE_BYTES = 2**26
MAX_SAMPLE_BYTES = 2**27

_log = logging.getLogger(__name__)


class GenerationError(ValueError):
    """A run that came to no usable volume; the message is one sentence."""


class Pipeline:
    """A loaded model, and everything between a request and its result.

    A run has three parts, so that the middle one can happen elsewhere (in a fork that owns the GPU, say): `plan`
    validates and looks into the caches, `run` computes, `finish` fills the caches and builds the result. `stream` and
    calling the pipeline do all three. Of them only `run` touches the networks.

    Every chain is sampled at batch 1 with a solver of its own, and nothing of one run is kept on the networks, so a
    volume depends on its request alone: not on `compare`, on the caches, or on other runs.

    The networks are tuned to the processor (`vcm.runtime.tuning.tune`) unless `is_tuned` is False.

    Attributes:
        config: of the model; `grid` is the voxel grid that every volume lies on.
        backbone: the frozen latent diffusion model.
        adapter: the VCM.
        segmenter: the model's independent segmenter, which only measures; None where the model has none.
        brain: (X, Y, Z) on the model grid, where brains lie; a tumor outside is said. None where the model has none.
        device: what the networks are on.
        precision: what sampling computes in, "float32" or "bfloat16" (by autocast).
    """

    def __init__(
        self,
        model: LoadedModel,
        *,
        segmenter: Segmenter | None = None,
        brain: NDArray[np.bool_] | None = None,
        precision: str = "float32",
        is_tuned: bool = True,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")
        self.config: ModelConfig = model.config
        self.backbone = model.backbone
        self.adapter = model.adapter
        self.device: torch.device = model.backbone.alphas_cumprod.device
        if precision == "auto":
            precision = "bfloat16" if has_native_bfloat16(self.device) else "float32"
        self.precision = precision
        self._hashes = dict(model.hashes)
        self.segmenter = segmenter
        self.brain = brain
        self._preview_decoder: LinearDecoder | None = None
        self._features: BoundedCache[Tensor] = BoundedCache(MAX_FEATURE_BYTES, lambda tensor: tensor.nbytes)
        self._samples: BoundedCache[Sample] = BoundedCache(MAX_SAMPLE_BYTES, lambda sample: sample.num_bytes)
        # Held for a step at a time and never across a yield: a run that is left half-way blocks nobody.
        self._lock = Lock()
        if is_tuned and (precision == "bfloat16" or self.device.type == "cpu"):
            for network in (self.backbone, self.adapter):
                tune(network)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path = EMBEDDED,
        device: str = "auto",
        precision: str = "auto",
        vcm_weights: str | Path | None = None,
        *,
        is_tuned: bool = True,
    ) -> Self:
        """Load a model.

        Args:
            name: "mini", which comes with the package; "brainldm", the published backbone, fetched from the hub once;
                or a folder with the same layout.
            device: "auto" (an accelerator where there is one), or a torch device such as "cpu" or "cuda".
            precision: "float32", "bfloat16", or "auto" (bfloat16 where the hardware is faster at it).
            vcm_weights: a VCM in place of the folder's own: the released weight file, a folder, or a repository of the
                hub as OWNER/NAME. "brainldm" has none of its own and takes the variable VCM_WEIGHTS otherwise.
            is_tuned: whether the networks take the fastest routines there are for the processor; see
                `vcm.runtime.tuning`.

        Raises:
            CheckpointError: there is no such model, or its files are damaged or do not fit together.
            ValueError: there is no such device or precision.
        """
        chosen = choose_device(device)
        weights = find_vcm_weights(name, vcm_weights)  # before gigabytes are fetched
        folder = find_model(name)
        keep_freed_memory()
        return cls(
            load_model(folder, chosen) if weights is None else _load_with(folder, weights, chosen),
            segmenter=_load_segmenter(folder, chosen),
            brain=_load_brain(folder),
            precision=precision,
            is_tuned=is_tuned,
        )

    @classmethod
    def from_reference(cls, folder: str | Path, device: str = "auto") -> Self:
        """Load a folder in the layout of the published code, with its config.json and three pickled weight files.

        Sums are taken in the order of the published code, which is not the fastest one: see `vcm.runtime.tuning.tune`.

        Raises:
            CheckpointError: a file is missing, damaged, holds more than plain tensors, or does not fit.
            ValueError: there is no such device.
        """
        return cls(load_reference(folder, choose_device(device)), is_tuned=False)

    @property
    def grid(self) -> Grid:
        """The voxel grid of every condition and every result."""
        return self.config.grid

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the conditions that this model takes."""
        return self.adapter.modalities

    @property
    def environment(self) -> Environment:
        """What a result depends on beside its request."""
        threads = torch.get_num_threads() if self.device.type == "cpu" else None
        return Environment(self.config.name, self._hashes, self.device.type, self.precision, threads)

    def __call__(self, request: GenerationRequest) -> GenerationResult:
        """Generate the volumes of a request; raises as `stream` does."""
        for event in self.stream(request):
            if isinstance(event, GenerationResult):
                return event
        raise AssertionError("a stream ends with its result")

    def stream(
        self, request: GenerationRequest, *, is_traced: bool = False
    ) -> Generator[Preview | GenerationResult, None, None]:
        """Generate, yielding a Preview after every step and the GenerationResult last.

        Closing the generator stops the work within one step.

        Args:
            request: what is generated.
            is_traced: whether to show every step even of an uncontrolled volume that is known already.

        Raises:
            VolumeError: a condition does not lie on the model's grid, or holds values that are no labels of it.
            ValueError: the model does not take a condition.
            GenerationError: the volume came out with values that are not finite.
        """
        job = replace(self.plan(request), is_traced=is_traced)
        for event in self.run(job):
            yield event if isinstance(event, Preview) else self.finish(job, event)

    def reconstruct(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return an image (X, Y, Z) in [0, 1] on the model grid after the autoencoder's round trip."""
        with self._computing():
            return self._decode(self.backbone.encode(torch.from_numpy(image)[None, None].to(self.device)))

    def plan(self, request: GenerationRequest) -> Job:
        """Bring the conditions to the model's grid and collect what the caches know; touches no network.

        Raises:
            VolumeError, ValueError: as `stream` does.
        """
        conditions = self.prepare(request)
        context = build_context(request, self.config.covariates)
        wants_controlled = (
            bool(conditions) and request.guidance_scale != 0.0 and request.control_start < request.control_end
        )
        wants_uncontrolled = request.compare or not wants_controlled
        features_key = tuple((name, _hash_condition(prepared)) for name, prepared in conditions.items())
        uncontrolled_key = (
            tuple(context.flatten().tolist()),
            request.seed,
            request.num_inference_steps,
            request.sampler,
        )
        return Job(
            request=replace(request, conditions={}, fill=None),
            conditions=conditions,
            recipe=build_recipe(request, conditions, self.environment),
            context=context,
            features=self._features.get(features_key) if wants_controlled else None,
            uncontrolled=self._samples.get(uncontrolled_key) if wants_uncontrolled else None,
            wants_controlled=wants_controlled,
            wants_uncontrolled=wants_uncontrolled,
            features_key=features_key,
            uncontrolled_key=uncontrolled_key,
        )

    def prepare(self, request: GenerationRequest) -> dict[str, PreparedCondition]:
        """Return the request's conditions as the model takes them, by name in the model's order.

        Raises:
            VolumeError: a volume does not lie on the model's grid, or holds values that are no labels of it; or a scan
                is none, or nothing of a partial one is to be made up.
            ValueError: the model does not take a condition.
        """
        check_modalities(request.conditions, self.modalities)
        channels = self.config.adapter.condition_channels
        given = Given(brain=self.brain, fill=request.fill)
        return prepare_conditions(request.conditions, self.modalities, self.grid, given, channels)

    def run(self, job: Job) -> Generator[Preview | Outcome, None, None]:
        """Compute a job, yielding a Preview after every step and the Outcome last.

        Raises:
            GenerationError: the volume came out with values that are not finite.
        """
        clock = _Clock()
        features = job.features
        if job.wants_controlled and features is None:
            with self._computing(), clock.measure("encode"):
                features = self.encode(job)
        chains: dict[str, Iterator[Step]] = {}
        if job.wants_controlled:
            chains["controlled"] = self.start_chain(job, features)
        has_steps = job.wants_controlled or not job.is_traced
        if job.wants_uncontrolled and (job.uncontrolled is None or not has_steps):
            chains["uncontrolled"] = self.start_chain(job, None)

        latents: dict[str, Tensor] = {}
        for number in range(1, job.request.num_inference_steps + 1) if chains else ():
            with self._computing(), clock.measure("sample"):
                steps = {name: next(chain) for name, chain in chains.items()}
            latents = {name: step.latent for name, step in steps.items()}
            for latent in latents.values():
                _require_finite(latent)  # as early as can be: nothing mends it later
            with self._computing(), clock.measure("preview"):
                shown = next(iter(steps.values()))
                estimate, did = self._preview(shown), (_magnitude(shown.eps_scale), _magnitude(shown.eps_shift))
            yield Preview(number, job.request.num_inference_steps, estimate, *did)

        samples: dict[str, Sample] = {}
        for name, latent in latents.items():
            with self._computing(), clock.measure("decode"):
                volume = self._decode(latent)
            if name == "controlled":
                for followed, scan in job.followed.items():
                    with clock.measure("agree"):
                        sample = Volume(volume, self.grid.affine)
                        volume = get_modality(followed).follow(scan, sample, self.reconstruct)
            with self._lock, torch.no_grad(), clock.measure("segment"):
                samples[name] = Sample(volume, self._segment(volume) if job.is_measured else None)
        yield Outcome(samples.get("controlled"), samples.get("uncontrolled"), features, clock.read())

    def finish(self, job: Job, outcome: Outcome) -> GenerationResult:
        """Keep what a run made for later runs, and return its result."""
        uncontrolled = outcome.uncontrolled or job.uncontrolled
        controlled = outcome.controlled or uncontrolled
        if controlled is None:
            raise ValueError("The outcome does not belong to this job.")
        if outcome.features is not None:
            self._features.put(job.features_key, outcome.features)
        if uncontrolled is not None and job.is_measured:
            self._samples.put(job.uncontrolled_key, uncontrolled)
        compared = uncontrolled if job.request.compare else None
        scans = {name: prepared.scan for name, prepared in job.conditions.items() if prepared.scan is not None}
        free = None if uncontrolled is None else self._to_volume(uncontrolled, scans)
        conditions = {name: prepared.volume for name, prepared in job.conditions.items()}
        found = {"controlled": controlled.segmentation}
        if compared is not None:
            found["uncontrolled"] = compared.segmentation
        return GenerationResult(
            controlled=free if controlled is uncontrolled and free else self._to_volume(controlled, scans, agree=True),
            uncontrolled=None if compared is None else free,
            conditions=conditions,
            recipe=job.recipe,
            adherence=measure_adherence(conditions, found),
            timings=dict(outcome.timings),
            segmentation=self._to_labels(controlled),
            scans={name: scan.volume for name, scan in scans.items()},
            fill=next((scan.hole for scan in scans.values() if scan.hole is not None), None),
        )

    @torch.no_grad()
    def time_step(self) -> float:
        """Return the seconds that one step of the prior takes here: of the second, since the first also warms up."""
        latent = initial_noise(0, self.config.latent_shape).to(self.device)
        timesteps = torch.tensor([500], device=self.device)
        context = torch.full((1, 1, NUM_COVARIATES), 0.5, device=self.device)
        seconds = 0.0
        with self._lock, self.autocast():
            for _ in range(2):
                started = time.perf_counter()
                self.backbone.predict_epsilon(latent, timesteps, context)
                seconds = time.perf_counter() - started
        return seconds

    def autocast(self) -> torch.autocast:
        """Return the context in which the networks compute in the pipeline's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def encode(self, job: Job) -> Tensor:
        """Return the features of a job's conditions, (1, F, x, y, z), on the CPU; to be called inside `autocast`."""
        conditions = {name: prepared.tensor[None].to(self.device) for name, prepared in job.conditions.items()}
        return self.adapter.encode_condition(conditions).float().cpu()

    def start_chain(self, job: Job, features: Tensor | None) -> Iterator[Step]:
        """Return the trajectory of a job, controlled where there are features; to be advanced inside `autocast`."""
        request = job.request
        return trajectory(
            self.backbone,
            self.adapter,
            initial_noise(request.seed, self.config.latent_shape),
            job.context,
            features,
            num_inference_steps=request.num_inference_steps,
            sampler=request.sampler,
            guidance_scale=request.guidance_scale,
            control_start=request.control_start,
            control_end=request.control_end,
        )

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Own the networks, without gradients and at the chosen precision."""
        with self._lock, torch.no_grad(), self.autocast():
            yield

    def _preview(self, step: Step) -> Volume:
        latent = self.backbone.denormalize(step.clean_latent)
        if self._preview_decoder is None:
            # One real decode in the life of a pipeline; after that a preview takes a few milliseconds.
            block = choose_block(latent, self.config.backbone.downsampling_factor)
            self._preview_decoder = LinearDecoder.fit(block, self.backbone.autoencoder.decode(block))
        estimate = self._preview_decoder.decode(latent)
        return Volume(estimate[0, 0].clamp(0.0, 1.0).float().cpu().numpy(), self.grid.affine)

    def _decode(self, latent: Tensor) -> NDArray[np.float32]:
        image = self.backbone.decode(latent)[0, 0]
        _require_finite(image)
        array: NDArray[np.float32] = image.clamp(0.0, 1.0).cpu().numpy()
        return array

    def _segment(self, volume: NDArray[np.float32]) -> Segmentation | None:
        return None if self.segmenter is None else Segmentation(*self.segmenter.segment(volume))

    def _to_volume(self, sample: Sample, scans: Mapping[str, Scan], *, agree: bool = False) -> Volume:
        """Bring a sample back to the units, and for a partial scan to the grid, of the scans that it was made from."""
        volume, before = Volume(sample.array, self.grid.affine), None
        for name in list_by_precedence(scans):
            if before is not None:  # back from the units of the scan that has not the last word
                volume = Volume(scale_intensities(volume.array, before.limits), volume.affine)
            volume = get_modality(name).finish(scans[name], volume, is_controlled=agree)
            before = scans[name]
        return volume

    def _to_labels(self, sample: Sample) -> dict[str, Volume] | None:
        if sample.segmentation is None:
            return None
        return {name: Volume(labels, self.grid.affine) for name, labels in sample.segmentation._asdict().items()}


def _hash_condition(prepared: PreparedCondition) -> str:
    """Return a hash of what is encoded; for labels, of the volume itself, which has a third of the bytes."""
    return hash_array(prepared.volume.array if prepared.scan is None else prepared.tensor.numpy())


def _magnitude(tensor: Tensor | None) -> NDArray[np.float32] | None:
    """Return the mean over the channels of what the VCM made, (1, C, x, y, z), without its sign: (x, y, z)."""
    if tensor is None:
        return None
    array: NDArray[np.float32] = tensor[0].float().abs().mean(0).cpu().numpy()
    return array


def _require_finite(tensor: Tensor) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise GenerationError("The volume came out with values that are not finite: lower guidance_scale.")


def build_context(request: GenerationRequest, covariates: CovariateConfig) -> Tensor:
    """Return a request's covariates as the model takes them, float32 (1, 1, 4) in [0, 1].

    Their order is sex (1 male), age, ventricular volume, brain volume.
    """
    youngest, oldest = covariates.age_years
    values = [
        float(request.sex == "male"),
        (request.age - youngest) / (oldest - youngest),
        request.ventricular_volume,
        request.brain_volume,
    ]
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1)


def choose_device(name: str) -> torch.device:
    """Return a torch device by its name; "auto" is an accelerator where there is one, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):  # what torch raises, depending on how it was built
        raise ValueError("There is no such device here: choose auto, cpu or cuda.") from None
    return device


def _load_with(folder: Path, weights: str | Path, device: torch.device) -> LoadedModel:
    """Load a model folder's backbone with a VCM from elsewhere."""
    config, backbone, hashes = load_backbone(folder, device)
    config, adapter, digest = attach_vcm(config, weights)
    return LoadedModel(config, backbone, adapter.to(device).eval(), hashes | {VCM_FILE: digest})


def _load_segmenter(folder: Path, device: torch.device) -> Segmenter | None:
    if not (folder / SEGMENTER_FILE).is_file():
        _log.info("The model has no segmenter: adherence is not measured.")
        return None
    from vcm.weights.segmenter import load_segmenter

    return load_segmenter(folder, device)


def _load_brain(folder: Path) -> NDArray[np.bool_] | None:
    if not (folder / BRAIN_FILE).is_file():
        return None
    verify_files(folder, [BRAIN_FILE])
    return Volume.load(folder / BRAIN_FILE, labels=True).array > 0


class _Clock:
    """Adds up seconds by stage, and in all since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._seconds: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        return self._seconds | {"total": time.perf_counter() - self._started}

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[stage] = self._seconds.get(stage, 0.0) + time.perf_counter() - started
