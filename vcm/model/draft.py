"""A draft: what the conditions alone say of the clean latent, made once per run, and how far it is trusted.

In a sample errors add up. The prior has never seen a tumor and takes a part of any away at every step, and what is
made of a scan of another contrast leads further from it with every step. So what the conditions say is said once, by a
network as large as it must be, and every step is held to it by as much as it is better than the prior's guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vcm.model.condition_encoder import ResidualBlock
from vcm.model.config import DraftConfig
from vcm.runtime.convolution import start_at_zero

LOG_VARIANCE_RANGE = (-6.0, 2.0)
"""Of a whitened latent, whose variance is about 1 where nothing is known."""

TRUST_LEARNED_FROM = 0.5
"""Of the noise schedule, 1 the noisiest. With less noise a step of training sees the true latent through it, and would
trust nothing else; a sample has no true latent to see, only what the noisier steps have made of the conditions."""

_EPS = 1e-6


@dataclass(frozen=True, eq=False)
class DraftMaps:
    """A draft of the clean latent, float32 (B, C, x, y, z) each.

    - `mean`, `log_variance`: of z_0 given the conditions alone.
    - `trust`: 0 leaves the noise estimate to the prior and the rest of the VCM, 1 to the draft alone.
    """

    mean: Tensor
    log_variance: Tensor
    trust: Tensor

    @classmethod
    def of(cls, features: Tensor) -> DraftMaps:
        """Read a draft of the features (B, 3 C, x, y, z) that `DraftNetwork` gives."""
        mean, log_variance, trust = features.float().chunk(3, dim=1)
        return cls(mean, log_variance.clamp(*LOG_VARIANCE_RANGE), trust.clamp(0.0, 1.0))

    def estimate_epsilon(self, latent: Tensor, signal: Tensor, noise_level: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the noise in z_t (B, C, x, y, z) by the draft alone.

        A clean latent that is normal with the draft's mean m and variance s, seen as z_t = sqrt(a) z_0 + sqrt(1 - a) e,
        has E[e | z_t] = sqrt(1 - a) (z_t - sqrt(a) m) / (1 - a + a s).

        Args:
            latent: z_t.
            signal, noise_level: sqrt(a_t) and sqrt(1 - a_t), (B, 1, 1, 1, 1) each.
            temperature: what the variance is multiplied by.
        """
        variance = noise_level**2 + signal**2 * temperature * self.log_variance.exp()
        return noise_level * (latent - signal * self.mean) / variance


class DraftNetwork(nn.Module):
    """Makes a draft of features of the conditions and of how a frozen encoder sees sketches of them.

    It trusts the draft nowhere at the start.

    Args:
        config: its size.
        feature_channels: of what the condition encoders gave.
        seen_channels: of what `vcm.model.sketch.Sketcher.look` gives.
        latent_channels: C of the latent.
    """

    def __init__(self, config: DraftConfig, feature_channels: int, seen_channels: int, latent_channels: int) -> None:
        super().__init__()
        width = config.channels
        self.read = nn.Conv3d(feature_channels + seen_channels, width, kernel_size=1)
        self.blocks = nn.Sequential(
            *(ResidualBlock(width, width, config.norm_num_groups, _EPS) for _ in range(config.num_res_blocks))
        )
        self.predict = start_at_zero(nn.Conv3d(width, 2 * latent_channels, kernel_size=1))
        # What is seen is nearly right already: a linear map of it is learned in a few steps, the rest is its error.
        self.correct = start_at_zero(nn.Conv3d(seen_channels, latent_channels, kernel_size=3, padding=1))
        self.trust = start_at_zero(nn.Conv3d(width, latent_channels, kernel_size=1))

    def forward(self, features: Tensor, seen: Tensor) -> Tensor:
        """Return a draft for `DraftMaps.of`, (B, 3 C, x, y, z), of maps (B, F, x, y, z) and (B, S, x, y, z)."""
        hidden = self.blocks(self.read(torch.cat([features, seen.to(features.dtype)], dim=1)))
        mean, log_variance = self.predict(hidden).chunk(2, dim=1)
        return torch.cat([mean + self.correct(seen), log_variance, self.trust(hidden)], dim=1)
