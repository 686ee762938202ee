"""DDIM: the deterministic first-order solver that the published code uses."""

from __future__ import annotations

import torch
from torch import Tensor

from vcm.model.backbone import build_betas
from vcm.model.config import ScheduleConfig


class DDIMSolver:
    """Deterministic DDIM (Song et al. 2021, equation 12 with sigma = 0) at the timesteps of the schedule's rule.

    A step goes from each timestep to the next of the same list, so the two can never disagree; the last goes to a
    clean latent.
    """

    def __init__(self, schedule: ScheduleConfig, num_inference_steps: int) -> None:
        self.timesteps = ddim_timesteps(schedule, num_inference_steps)
        alphas_cumprod = torch.cumprod(1.0 - build_betas(schedule), dim=0)
        self._alphas = [*alphas_cumprod[self.timesteps].tolist(), 1.0]

    def step(self, index: int, latent: Tensor, epsilon: Tensor) -> Tensor:
        """Return the latent after step `index`, from z_t and the noise estimate there."""
        alpha, next_alpha = self._alphas[index : index + 2]
        clean = (latent - (1.0 - alpha) ** 0.5 * epsilon) / alpha**0.5
        return next_alpha**0.5 * clean + (1.0 - next_alpha) ** 0.5 * epsilon


def ddim_timesteps(schedule: ScheduleConfig, num_inference_steps: int) -> list[int]:
    """Return the falling timesteps of DDIM under the schedule's rule, see `ScheduleConfig.ddim_timesteps`."""
    most = schedule.num_train_timesteps
    if schedule.ddim_timesteps == "leading":
        stride = most // num_inference_steps
        return [stride * i for i in reversed(range(num_inference_steps))]
    return [most * i // num_inference_steps - 1 for i in range(num_inference_steps, 0, -1)]
