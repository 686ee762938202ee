"""The denoising trajectory: one readable generator over solvers, guidance and the control window."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vcm.model.backbone import Backbone
from vcm.model.vcm import modulate
from vcm.sampler.solvers import DEFAULT_SOLVER, build_solver


@dataclass(frozen=True, eq=False)
class Step:
    """What one denoising step saw and did; every tensor is (B, C, x, y, z), float32, on the backbone's device.

    - `index` counts from 0 to num_inference_steps - 1; `timestep` is the diffusion time t that it was made at.
    - `noisy_latent` is z_t; `latent` is what the step made of it, the last one being the sample.
    - `epsilon` is the prior's noise estimate, `guided_epsilon` the one that the solver used.
    - `eps_scale` and `eps_shift` are the VCM's, or None where it was not asked.
    """

    index: int
    timestep: int
    noisy_latent: Tensor
    epsilon: Tensor
    eps_scale: Tensor | None
    eps_shift: Tensor | None
    guided_epsilon: Tensor
    latent: Tensor
    alpha_cumprod: float

    @property
    def clean_latent(self) -> Tensor:
        """The step's estimate of the clean latent, (z_t - sqrt(1 - a_t) epsilon) / sqrt(a_t), computed when asked."""
        return (self.noisy_latent - (1.0 - self.alpha_cumprod) ** 0.5 * self.guided_epsilon) / self.alpha_cumprod**0.5


class Adapter(Protocol):
    """What says, at each step, how to change the prior's noise estimate: a VCM, or whatever is called like one."""

    def __call__(
        self, latent: Tensor, epsilon: Tensor, features: Tensor, timesteps: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        """Return eps_scale and eps_shift, each (B, C, x, y, z); see `VCM.forward`."""


@torch.no_grad()
def trajectory(
    backbone: Backbone,
    adapter: Adapter | None,
    noise: Tensor,
    context: Tensor,
    features: Tensor | None,
    *,
    num_inference_steps: int = 20,
    sampler: str = DEFAULT_SOLVER,
    guidance_scale: float = 1.0,
    control_start: float = 0.0,
    control_end: float = 1.0,
) -> Generator[Step, None, None]:
    """Denoise step by step, yielding after each; closing the generator stops the work within one step.

    The prior runs once a step, and so does the VCM in the steps that begin inside the control window. Without features,
    or with guidance_scale 0, the VCM is never called and the result is the backbone's own sample.

    Args:
        backbone: the frozen prior.
        adapter: the VCM, or what is called like one; None for an uncontrolled sample.
        noise: what to start from, (B, C, x, y, z), usually of `initial_noise`.
        context: covariates, (B, 1, 4), each in [0, 1].
        features: the conditions, encoded once by `adapter.encode_condition`, (B, F, x, y, z); None for no condition.
        num_inference_steps: 1 to num_train_timesteps (1000).
        sampler: one of `SOLVERS`.
        guidance_scale: w in epsilon + w (eps_hat - epsilon): 0 is the prior, 1 the published method.
        control_start, control_end: the VCM acts while control_start <= index / num_inference_steps < control_end.

    Raises:
        ValueError: the sampler is unknown or the number of steps out of range.
    """
    solver = build_solver(sampler, backbone.config.schedule, num_inference_steps)
    device = backbone.alphas_cumprod.device
    latent, context = noise.to(device), context.to(device)
    if features is not None:
        features = features.to(device)

    # 1. Start from noise: z_T.
    for index, timestep in enumerate(solver.timesteps):
        timesteps = torch.full((latent.shape[0],), timestep, device=device)  # (B,)

        # 2. Ask the frozen prior: epsilon_t.
        epsilon = guided_epsilon = backbone.predict_epsilon(latent, timesteps, context)

        # 3. Ask the VCM, inside the control window: (gamma_t, beta_t), and eps_hat = epsilon (1 + gamma) + beta.
        eps_scale = eps_shift = None
        in_control = guidance_scale != 0.0 and control_start <= index / num_inference_steps < control_end
        if adapter is not None and features is not None and in_control:
            eps_scale, eps_shift = adapter(latent, epsilon, features, timesteps)
            controlled_epsilon = modulate(epsilon, eps_scale, eps_shift)

            # 4. Guide: epsilon + w (eps_hat - epsilon), which lerp makes exactly eps_hat at w = 1.
            guided_epsilon = torch.lerp(epsilon, controlled_epsilon, guidance_scale)

        # 5. Take the solver's step: z_t to the next, less noisy latent.
        noisy_latent, latent = latent, solver.step(index, latent, guided_epsilon)
        yield Step(
            index=index,
            timestep=timestep,
            noisy_latent=noisy_latent,
            epsilon=epsilon,
            eps_scale=eps_scale,
            eps_shift=eps_shift,
            guided_epsilon=guided_epsilon,
            latent=latent,
            alpha_cumprod=float(backbone.alphas_cumprod[timestep]),
        )


def sample(
    backbone: Backbone, adapter: Adapter | None, noise: Tensor, context: Tensor, features: Tensor | None, **options: Any
) -> Tensor:
    """Run `trajectory`, with its arguments, to its end and return the clean latent (B, C, x, y, z)."""
    latent = noise
    for step in trajectory(backbone, adapter, noise, context, features, **options):
        latent = step.latent
    return latent


def initial_noise(seeds: int | Sequence[int], shape: Sequence[int]) -> Tensor:
    """Return unit noise, one seed a sample: float32 (B, *shape) on the CPU.

    Each sample has its own generator on the CPU, so a seed means the same noise on every device and in every batch.
    """
    each = [seeds] if isinstance(seeds, int) else seeds
    return torch.stack([torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)) for seed in each])
