"""Frozen configurations that travel with their weights as JSON and are read strictly."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np

NUM_COVARIATES = 4
"""Sex, age, ventricular volume and brain volume, in this order, each in [0, 1]."""

NUM_COORDINATES = 3
"""One channel an axis, in the order X, Y, Z."""

_LATER = {"came later": True}
"""Marks a field that came later: weights of before lack it, and work as with None, which is not written."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence."""


class _JsonConfig:
    """Strict JSON in and out for the dataclasses below: nothing missing, nothing unknown, no silent conversion."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the configuration from parsed JSON.

        Raises:
            ConfigError: a field is unknown, missing or of the wrong type, or the values do not fit together.
        """
        return _read_dataclass(cls, values, cls.__name__)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build the configuration from JSON text; raises ConfigError as `from_dict` does."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConfigError("The configuration is not valid JSON.") from error
        return cls.from_dict(values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers that `from_dict` reads back."""
        fields = dataclasses.fields(typing.cast(Any, self))
        values = {f.name: _plain(getattr(self, f.name)) for f in fields}
        return {
            f.name: values[f.name] for f in fields if not f.metadata.get("came later") or values[f.name] is not None
        }

    def to_json(self) -> str:
        """Return indented JSON that `from_json` reads back."""
        return json.dumps(self.to_dict(), indent=2) + "\n"


@dataclass(frozen=True, eq=False)
class Grid(_JsonConfig):
    """The voxel grid that a model works on.

    `shape` is (X, Y, Z); `affine` is a read-only (4, 4) float64 array, voxel index to RAS+ mm.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise ConfigError(f"A grid's shape must be three positive numbers, got {list(shape)}.")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:
            raise ConfigError("A grid's affine must be an invertible 4 x 4 matrix.")
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grid):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))


@dataclass(frozen=True)
class ScheduleConfig(_JsonConfig):
    """The noise schedule that the diffusion model was trained with.

    - `beta_schedule`: "scaled_linear" is linear in the square root of the variance (BrainLDM), "linear" in itself.
    - `prediction_type`: what the network returns; "v_prediction" is turned into epsilon before anyone sees it.
    - `ddim_timesteps`: "leading" is the published rule (900, 800 ... 0 for ten steps, never the noisiest timestep);
      "trailing" starts at the noisiest timestep (999, 899 ... 99).
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0205
    beta_schedule: Literal["scaled_linear", "linear"] = "scaled_linear"
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    ddim_timesteps: Literal["leading", "trailing"] = "leading"

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1:
            raise ConfigError(f"num_train_timesteps must be at least 1, got {self.num_train_timesteps}.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError("The noise schedule needs 0 < beta_start <= beta_end < 1.")


@dataclass(frozen=True)
class BackboneConfig(_JsonConfig):
    """The latent diffusion model that is controlled but never trained by a VCM.

    `autoencoder` and `diffusion` are the keyword arguments of `Autoencoder`, which are those of MONAI's AutoencoderKL
    and a `patch_size`, and of `Denoiser`, which are those of MONAI's DiffusionModelUNet and a `position_map`.

    - `latent_scale_factor`: latents are the encoder's mean times this (0.896 in the published code, 1 if unused).
    - `whitening`: latents are (mean - mean map) / deviation map instead, with both maps kept among the weights.
    - `coordinate_channels`: three more input channels tell the network where in the field of view it is.
    - `covariates_as_channels`: the four covariates are broadcast and concatenated to the latent.
    - `covariates_as_context`: the four covariates are the one token of the cross-attention.
    """

    autoencoder: dict[str, Any]
    diffusion: dict[str, Any]
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    latent_scale_factor: float = 1.0
    whitening: bool = False
    coordinate_channels: bool = False
    covariates_as_channels: bool = True
    covariates_as_context: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "autoencoder", _plain(self.autoencoder))
        object.__setattr__(self, "diffusion", _plain(self.diffusion))
        _require(self.autoencoder, "autoencoder", "channels", "latent_channels")
        _require(self.diffusion, "diffusion", "channels", "in_channels", "out_channels", "num_head_channels")
        if self.latent_scale_factor <= 0:
            raise ConfigError(f"latent_scale_factor must be positive, got {self.latent_scale_factor}.")
        if self.whitening and self.latent_scale_factor != 1.0:
            raise ConfigError("Whitened latents have no latent_scale_factor: leave it at 1.")
        expected = self.latent_channels
        expected += NUM_COVARIATES * self.covariates_as_channels + NUM_COORDINATES * self.coordinate_channels
        if self.diffusion["in_channels"] != expected or self.diffusion["out_channels"] != self.latent_channels:
            raise ConfigError(
                f"The diffusion network must take {expected} channels and return {self.latent_channels}, "
                f"not {self.diffusion['in_channels']} and {self.diffusion['out_channels']}."
            )
        if bool(self.diffusion.get("with_conditioning", False)) != self.covariates_as_context:
            raise ConfigError("covariates_as_context and the diffusion network's with_conditioning must agree.")
        if self.covariates_as_context and self.diffusion.get("cross_attention_dim") != NUM_COVARIATES:
            raise ConfigError(f"The diffusion network's cross_attention_dim must be {NUM_COVARIATES}.")
        _require_middle_attention(self.diffusion, "diffusion")

    @property
    def latent_channels(self) -> int:
        """Channels of the latent."""
        return int(self.autoencoder["latent_channels"])

    @property
    def downsampling_factor(self) -> int:
        """Voxels along an axis for each latent cell."""
        return int(self.autoencoder.get("patch_size", 1) * 2 ** (len(self.autoencoder["channels"]) - 1))


@dataclass(frozen=True)
class ConditionEncoderConfig(_JsonConfig):
    """One convolutional encoder from full voxel resolution to latent resolution, the same for every modality.

    - `num_res_blocks`: residual blocks of each level; 0 leaves only the level's downsampling block.
    - `downsample`: which levels end in a residual block that halves the resolution.
    - `patch_size`: the voxels of each cube of this edge become channels before the first convolution. Nothing is lost,
      and an encoder whose first level is at half the resolution costs a quarter; 1, the published form, folds nothing.
    """

    channels: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    downsample: tuple[bool, ...]
    norm_num_groups: int
    norm_eps: float = 1e-6
    patch_size: int = 1

    def __post_init__(self) -> None:
        if self.patch_size not in (1, 2, 4):
            raise ConfigError("A condition encoder's patch_size must be 1, 2 or 4.")
        if not self.channels or not len(self.channels) == len(self.num_res_blocks) == len(self.downsample):
            raise ConfigError("A condition encoder needs channels, num_res_blocks and downsample for each level.")
        if self.norm_num_groups < 1 or any(c < 1 or c % self.norm_num_groups for c in self.channels):
            raise ConfigError("A condition encoder's channels must be multiples of norm_num_groups.")
        if any(n < 0 or (n == 0 and not down) for n, down in zip(self.num_res_blocks, self.downsample, strict=True)):
            raise ConfigError("Each level of a condition encoder needs a residual block or a downsampling block.")

    @property
    def out_channels(self) -> int:
        """Channels of the features."""
        return self.channels[-1]

    @property
    def downsampling_factor(self) -> int:
        """Voxels along an axis for each feature cell."""
        return self.patch_size * int(2 ** sum(self.downsample))


@dataclass(frozen=True)
class PainterConfig(_JsonConfig):
    """What makes a T1-weighted image of other contrasts, at full resolution; see `vcm.model.painter`.

    - `channels`: of its levels, the first at half the resolution, each next at half of that before.
    """

    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise ConfigError("A painter needs two levels or more, of a positive number of channels each.")


@dataclass(frozen=True)
class DraftConfig(_JsonConfig):
    """What a VCM makes of its conditions alone, before any noise is seen: a draft of the clean latent; see
    `vcm.model.draft`.

    - `intensities`: what labels look like in a T1-weighted image in [0, 1], by label modality. What is known of an
      image is painted into the mean brain, and the draft is made of how the backbone's frozen encoder sees that.
    - `channels`, `num_res_blocks`: of its network, which runs once per run, so that its size costs a step nothing.
    - `temperature`: what its variance is multiplied by in a sample. Cell by cell it says nothing of what goes with
      what: drawn as wide as it is, noise would come of it that no brain has.
    - `trust_factor`: what the trust in it is multiplied by in a sample, up to 1; None leaves it as it is. A training
      judges each step by itself, from a true noisy latent; in a sample the errors of all steps add up, and the draft
      makes its own but once.
    - `painter`: what paints other contrasts into the sketch; None leaves them out of it.
    """

    intensities: dict[str, tuple[float, ...]]
    channels: int
    num_res_blocks: int
    norm_num_groups: int = 8
    temperature: float = 0.1
    trust_factor: float | None = field(default=None, metadata=_LATER)
    painter: PainterConfig | None = field(default=None, metadata=_LATER)

    def __post_init__(self) -> None:
        if not 0.0 < self.temperature <= 1.0:
            raise ConfigError("The temperature of a draft must be above 0 and at most 1.")
        if self.trust_factor is not None and not self.trust_factor >= 1.0:
            raise ConfigError("The trust_factor of a draft must be at least 1.")
        if self.channels < 1 or self.num_res_blocks < 0 or self.norm_num_groups < 1:
            raise ConfigError("A draft needs a positive number of channels and no negative number of blocks.")
        if self.channels % self.norm_num_groups:
            raise ConfigError("A draft's channels must be a multiple of norm_num_groups.")
        if not all(0.0 <= each <= 1.0 for values in self.intensities.values() for each in values):
            raise ConfigError("The intensities of a draft must be in [0, 1].")


@dataclass(frozen=True)
class AdapterConfig(_JsonConfig):
    """The VCM: condition encoders, the U-Net at latent resolution, and the two heads.

    `condition_channels` maps each modality to its channels; its order is the order of concatenation.
    `unet` holds the keyword arguments of MONAI's DiffusionModelUNet, without context.

    - `head_channels`: width between the U-Net and the two heads.
    - `normalize_heads`: a parameter-free InstanceNorm ends both heads, as released weights need it; such a VCM can
      never be the identity, so it is off in our own.
    - `velocity_schedule`: with a noise schedule here the U-Net reads the prior's estimate as v, and the heads say how
      to change what the prior thinks the clean latent is: they scale it, scale the noisy latent, and shift. Gamma and
      beta follow exactly. At the noisiest steps z_t and epsilon are nearly the same, so that the prior's clean latent
      cannot be heard in them, and the same change of epsilon changes it 80 times as much as at the least noisy ones.
      None is the published form.
    - `fusion_blocks`: residual blocks after the aggregation, so that what two conditions say together is worked out
      once per run.
    - `feature_channels`: of what the U-Net reads, where that is less than the condition encoders give; None for all.
    - `static_maps`: the features also become maps of scale, gain and shift themselves, faded by a learned function of
      the noise level and added to the heads'. They are made once per run, so their width costs a step nothing, and what
      a condition looks like is learned in hundreds of steps. Only with a `velocity_schedule`.
    - `draft`: of the clean latent, made of the conditions once per run, to which the noise estimate is drawn as far as
      it is trusted. None for a VCM that has to find in every step anew what its conditions look like. Only with a
      `velocity_schedule`.
    - `norm`: "channel" normalises over the channels of each cell, so that what crops teach holds for whole volumes;
      None keeps the GroupNorm of released weights, whose statistics are of the whole volume. With "channel" the two
      heads give gamma and beta of v, from which those of epsilon follow, so it needs a `velocity_schedule`.
    - `aggregation`: "concat" joins the modalities' features and presence flags with one 1x1x1 projection, "mean"
      averages the features of those present (an ablation).
    """

    condition_channels: dict[str, int]
    condition_encoder: ConditionEncoderConfig
    unet: dict[str, Any]
    head_channels: int = 128
    normalize_heads: bool = False
    velocity_schedule: ScheduleConfig | None = None
    fusion_blocks: int = 0
    feature_channels: int | None = None
    static_maps: bool = False
    aggregation: Literal["concat", "mean"] = "concat"
    draft: DraftConfig | None = field(default=None, metadata=_LATER)
    norm: Literal["channel"] | None = field(default=None, metadata=_LATER)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unet", _plain(self.unet))
        _require(self.unet, "unet", "channels", "in_channels", "out_channels", "num_head_channels")
        if not self.condition_channels or min(self.condition_channels.values()) < 1 or self.head_channels < 1:
            raise ConfigError("A VCM needs at least one modality, and positive channel counts.")
        if self.fusion_blocks < 0 or (self.feature_channels is not None and self.feature_channels < 1):
            raise ConfigError("A VCM's fusion_blocks must not be negative, and its feature_channels positive.")
        if self.static_maps and self.velocity_schedule is None:
            raise ConfigError("A VCM's static_maps need a velocity_schedule.")
        if self.norm is not None:
            if self.velocity_schedule is None:
                raise ConfigError("A VCM with a channel norm needs a velocity_schedule.")
            if self.static_maps or self.draft is not None or self.normalize_heads:
                raise ConfigError("A VCM with a channel norm has no static_maps, draft or normalised heads.")
        if self.draft is not None:
            if self.velocity_schedule is None:
                raise ConfigError("A VCM's draft needs a velocity_schedule.")
            for name, intensities in self.draft.intensities.items():
                if len(intensities) != self.condition_channels.get(name, len(intensities)):
                    raise ConfigError(f"A VCM's draft needs an intensity for each label of {name}.")
        latent_channels, rest = divmod(self.unet["in_channels"] - self.read_channels, 2)
        if latent_channels < 1 or rest:
            raise ConfigError("A VCM's U-Net must take the latent, the epsilon and the features as its channels.")
        if self.unet.get("with_conditioning", False):
            raise ConfigError("A VCM's U-Net takes no context.")
        _require_middle_attention(self.unet, "unet")

    @property
    def latent_channels(self) -> int:
        """Channels of the latent that is controlled."""
        return int((self.unet["in_channels"] - self.read_channels) // 2)

    @property
    def read_channels(self) -> int:
        """Channels of the features that the U-Net reads."""
        return self.feature_channels or self.condition_encoder.out_channels

    @property
    def feature_split(self) -> list[int]:
        """Channels of the features of a run: those that the U-Net reads, the static maps, and the draft."""
        channels = self.latent_channels
        return [
            self.read_channels,
            3 * channels * self.static_maps,
            3 * channels * (self.draft is not None),
        ]

    @property
    def encoded_channels(self) -> int:
        """Channels of the features of a run in all."""
        return sum(self.feature_split)


@dataclass(frozen=True)
class CovariateConfig(_JsonConfig):
    """What 0 and 1 stand for in each covariate: years, and millilitres where the training data's range is known."""

    age_years: tuple[float, float] = (44.0, 82.0)
    ventricular_ml: tuple[float, float] | None = None
    brain_ml: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        for name in ("age_years", "ventricular_ml", "brain_ml"):
            limits = getattr(self, name)
            if limits is not None and not limits[0] < limits[1]:
                raise ConfigError(f"{name} must be two rising numbers, got {list(limits)}.")


@dataclass(frozen=True)
class ModelConfig(_JsonConfig):
    """All of one model: its grid, its backbone, its VCM, and what its covariates stand for."""

    name: str
    grid: Grid
    backbone: BackboneConfig
    adapter: AdapterConfig
    covariates: CovariateConfig = field(default_factory=CovariateConfig)

    def __post_init__(self) -> None:
        factor = self.backbone.downsampling_factor
        if any(n % factor for n in self.grid.shape):
            raise ConfigError(f"Every axis of the grid {list(self.grid.shape)} must be a multiple of {factor}.")
        for where, network in (("diffusion", self.backbone.diffusion), ("unet", self.adapter.unet)):
            halved = 2 ** (len(network["channels"]) - 1)
            if any(n % halved for n in self.latent_shape[1:]):
                latent = list(self.latent_shape[1:])
                raise ConfigError(f"Every axis of the latent {latent} must be a multiple of {halved} for {where}.")
        if self.adapter.condition_encoder.downsampling_factor != factor:
            raise ConfigError(f"The condition encoders must downsample by {factor}, as the autoencoder does.")
        if self.adapter.latent_channels != self.backbone.latent_channels:
            raise ConfigError(
                f"The VCM controls {self.adapter.latent_channels} latent channels, "
                f"but the backbone has {self.backbone.latent_channels}."
            )

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """Shape of one latent, (C, x, y, z)."""
        factor = self.backbone.downsampling_factor
        x, y, z = (n // factor for n in self.grid.shape)
        return self.backbone.latent_channels, x, y, z


def _require(arguments: Mapping[str, Any], where: str, *names: str) -> None:
    missing = [name for name in names if name not in arguments]
    if missing:
        raise ConfigError(f"The configuration's {where} lacks {', '.join(missing)}.")


def _require_middle_attention(arguments: Mapping[str, Any], where: str) -> None:
    """MONAI's U-Net attends in its middle whatever the levels do, and divides by the last head width."""
    widths = arguments["num_head_channels"]
    last = widths[-1] if isinstance(widths, list) else widths
    if last < 1 or arguments["channels"][-1] % last:
        raise ConfigError(f"The last num_head_channels of {where} must divide its last channels, got {last}.")


def _plain(value: Any) -> Any:
    """Return `value` made of what JSON has."""
    if isinstance(value, _JsonConfig):
        return value.to_dict()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _read_dataclass(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"The configuration's {where} must be an object.")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"The configuration's {where} has unknown fields: {', '.join(unknown)}.")
    # A default is a convenience of Python code; a file that lacks a field was written by something else.
    missing = [name for name, each in fields.items() if name not in values and not each.metadata.get("came later")]
    if missing:
        raise ConfigError(f"The configuration's {where} lacks {', '.join(missing)}.")
    hints = typing.get_type_hints(cls)
    arguments = {name: _read(hints[name], values[name], f"{where}.{name}") for name in fields if name in values}
    try:
        return cls(**arguments)
    except (TypeError, AttributeError, IndexError) as error:
        # The networks' own arguments are not typed here, so the checks may trip over them.
        raise ConfigError(f"The configuration's {where} does not hold what it should.") from error


def _read(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint` says, or raise ConfigError."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(typing.cast(type, hint), value, where)
    if origin in (types.UnionType, typing.Union):  # the latter is what Literal | None becomes
        return None if value is None else _read(arguments[0], value, where)
    if origin is Literal:
        if value in arguments:
            return value
        raise ConfigError(f"The configuration's {where} must be one of {', '.join(arguments)}.")
    if origin is tuple:
        if not isinstance(value, list) or (arguments[-1] is not Ellipsis and len(value) != len(arguments)):
            raise ConfigError(f"The configuration's {where} must be a list of the right length.")
        return tuple(_read(arguments[0], item, where) for item in value)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"The configuration's {where} must be an object.")
        return {key: _read(arguments[1], item, where) for key, item in value.items()}
    if hint is Any:
        return value
    if hint is np.ndarray:
        try:
            return np.array(value, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"The configuration's {where} must be a matrix of numbers.") from error
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise ConfigError(f"The configuration's {where} must be of type {hint.__name__}.")
    return value
