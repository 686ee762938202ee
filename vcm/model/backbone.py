"""The frozen latent diffusion model that a VCM controls: encode, decode, predict the noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vcm.model.autoencoder import Autoencoder
from vcm.model.config import NUM_COVARIATES, BackboneConfig, ConfigError, ScheduleConfig
from vcm.model.denoiser import Denoiser

WHITENING_FLOOR = 1e-6
"""The least deviation that a whitening map may hold, far below any latent's."""


class Backbone(nn.Module):
    """A latent diffusion model whose weights never change while a VCM is trained or used.

    Latents are float32 of shape (B, C, x, y, z) = (B, *latent_shape) and normalised: about zero mean and unit
    variance, which is what the diffusion network was trained on. Timesteps are integers of shape (B,), 0 the cleanest.
    Context is float32 of shape (B, 1, 4): sex (1 male), age, ventricular and brain volume, each in [0, 1].
    All axes are in the order X, Y, Z of the model's grid.

    The parameters are frozen and the module stays in evaluation mode whatever a parent asks for. Those who train the
    prior itself work on `autoencoder` and `diffusion` directly, and thaw them first.

    Raises:
        ConfigError: MONAI cannot build the networks that the configuration asks for.
    """

    alphas_cumprod: Tensor
    coordinates: Tensor
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, config: BackboneConfig, latent_shape: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.config = config
        self.latent_shape = tuple(latent_shape)
        self.autoencoder: Autoencoder = build_network(Autoencoder, config.autoencoder)
        self.diffusion: Denoiser = build_network(Denoiser, config.diffusion)
        # Explicitly on the CPU: these must be real even where the networks are built on the meta device, to be filled
        # from a file.
        alphas_cumprod = torch.cumprod(1.0 - build_betas(config.schedule), dim=0)
        self.register_buffer("alphas_cumprod", alphas_cumprod, persistent=False)
        if config.whitening:
            self.register_buffer("latent_mean", torch.zeros(self.latent_shape, device="cpu"))
            self.register_buffer("latent_std", torch.ones(self.latent_shape, device="cpu"))
        if config.coordinate_channels:
            self.register_buffer("coordinates", build_coordinates(self.latent_shape[1:]), persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: the prior is frozen."""
        return super().train(False)

    def set_whitening(self, latent_mean: Tensor, latent_std: Tensor) -> None:
        """Set the maps, both (C, x, y, z), that turn the encoder's means into normalised latents.

        Raises:
            ValueError: this backbone is not whitened, or a map has another shape, or a deviation is not positive.
        """
        if not self.config.whitening:
            raise ValueError("This backbone's latents are not whitened.")
        if not tuple(latent_mean.shape) == tuple(latent_std.shape) == self.latent_shape:
            raise ValueError(f"The whitening maps must have the latent's shape {list(self.latent_shape)}.")
        if not bool((latent_std >= WHITENING_FLOOR).all()):
            raise ValueError("The deviation map must be positive everywhere.")
        self.latent_mean.copy_(latent_mean)
        self.latent_std.copy_(latent_std)

    def encode(self, image: Tensor) -> Tensor:
        """Return the normalised mean latent (B, C, x, y, z) of an image (B, 1, X, Y, Z) in [0, 1]."""
        mean, _ = self.autoencoder.encode(image)
        return self.normalize(mean.float())

    def decode(self, latent: Tensor) -> Tensor:
        """Return the image (B, 1, X, Y, Z) of a normalised latent (B, C, x, y, z), about [0, 1] but not clipped."""
        image: Tensor = self.autoencoder.decode(self.denormalize(latent))
        return image.float()

    def decode_volumes(self, latents: Tensor) -> list[NDArray[np.float32]]:
        """Return the volumes (X, Y, Z) in [0, 1] of latents (B, C, x, y, z), decoded one at a time: they are large."""
        return [self.decode(latent[None])[0, 0].clamp(0.0, 1.0).cpu().numpy() for latent in latents]

    def normalize(self, latent: Tensor) -> Tensor:
        """Return the encoder's latent (B, C, x, y, z) in the scale that the diffusion network works in."""
        if self.config.whitening:
            return (latent - self.latent_mean) / self.latent_std
        return latent * self.config.latent_scale_factor

    def denormalize(self, latent: Tensor) -> Tensor:
        """Undo `normalize`."""
        if self.config.whitening:
            return latent * self.latent_std + self.latent_mean
        return latent / self.config.latent_scale_factor

    def predict_epsilon(self, latent: Tensor, timesteps: Tensor, context: Tensor, **injected: Any) -> Tensor:
        """Return the prior's noise estimate epsilon (B, C, x, y, z), float32, whatever the network predicts.

        Args:
            injected: residuals for the network's blocks, as its `forward` names them.
        """
        return self.to_epsilon(self.predict_raw(latent, timesteps, context, **injected), latent, timesteps)

    def to_epsilon(self, output: Tensor, latent: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noise estimate that an output of `predict_raw` at a noisy latent stands for."""
        if self.config.schedule.prediction_type == "epsilon":
            return output
        # v = sqrt(a) epsilon - sqrt(1 - a) z_0 and z_t = sqrt(a) z_0 + sqrt(1 - a) epsilon (Salimans and Ho 2022).
        signal, noise_level = self._signal_and_noise(timesteps)
        return signal * output + noise_level * latent

    def predict_raw(self, latent: Tensor, timesteps: Tensor, context: Tensor, **injected: Any) -> Tensor:
        """Return what the diffusion network itself says, float32: epsilon or v, as the schedule's prediction_type.

        This is what a trainer compares with `training_target`.
        """
        output: Tensor = self.diffusion(
            self.join_inputs(latent, context),
            timesteps=timesteps,
            context=context if self.config.covariates_as_context else None,
            **injected,
        )
        return output.float()

    def join_inputs(self, latent: Tensor, context: Tensor) -> Tensor:
        """Return all that the diffusion network reads as channels: the latent, covariates and coordinates."""
        channels = [latent]
        if self.config.covariates_as_channels:
            covariates = context.reshape(-1, NUM_COVARIATES, 1, 1, 1)
            channels.append(covariates.expand(-1, -1, *latent.shape[2:]))
        if self.config.coordinate_channels:
            channels.append(self.coordinates.expand(latent.shape[0], -1, -1, -1, -1))
        return torch.cat(channels, dim=1)  # (B, C [+ 4] [+ 3], x, y, z)

    def training_target(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what `predict_raw` should say at the noised latent: the noise, or v."""
        if self.config.schedule.prediction_type == "epsilon":
            return noise
        signal, noise_level = self._signal_and_noise(timesteps)
        return signal * noise - noise_level * latent

    def add_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return z_t = sqrt(a_t) latent + sqrt(1 - a_t) noise, (B, C, x, y, z)."""
        signal, noise_level = self._signal_and_noise(timesteps)
        return signal * latent + noise_level * noise

    def remove_noise(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Undo `add_noise`: with a noise estimate, return the clean latent that it stands for."""
        signal, noise_level = self._signal_and_noise(timesteps)
        return (latent - noise_level * noise) / signal

    def _signal_and_noise(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Return sqrt(a_t) and sqrt(1 - a_t), each (B, 1, 1, 1, 1)."""
        alphas = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
        return alphas.sqrt(), (1.0 - alphas).sqrt()


def build_betas(schedule: ScheduleConfig) -> Tensor:
    """Return the variance of each forward step, float32 (num_train_timesteps,), on the CPU."""
    start, end, steps = schedule.beta_start, schedule.beta_end, schedule.num_train_timesteps
    if schedule.beta_schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float32, device="cpu") ** 2
    return torch.linspace(start, end, steps, dtype=torch.float32, device="cpu")


def build_coordinates(shape: tuple[int, ...]) -> Tensor:
    """Return where each cell lies, float32 (3, x, y, z) from -1 to 1 along X, Y and Z, on the CPU."""
    axes = [torch.linspace(-1.0, 1.0, n, device="cpu") for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def build_network(network: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Build a MONAI network from the keyword arguments of a configuration; raises ConfigError if it cannot be."""
    try:
        return network(**arguments)
    except (TypeError, ValueError) as error:
        name = getattr(network, "__name__", "network")
        raise ConfigError(f"The configuration's {name} cannot be built: {error}.") from error
