"""The trajectory: solvers against the exact answer, guidance, the control window, seeds, stopping."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from tiny import build_tiny_config
from torch import Tensor, nn

from vcm.model.backbone import Backbone, build_betas
from vcm.model.config import ScheduleConfig
from vcm.model.vcm import modulate
from vcm.sampler import Step, initial_noise, sample, trajectory
from vcm.sampler.ddim import ddim_timesteps
from vcm.sampler.multistep import quadratic_timesteps
from vcm.sampler.solvers import SOLVERS, build_solver
from vcm.weights.checkpoint import LoadedModel

CONTEXT = torch.full((1, 1, 4), 0.5)


class GaussianPrior(Backbone):
    """A prior that knows its data exactly: normal, with a deviation of its own in each channel."""

    deviation = torch.tensor([0.2, 0.4, 0.8, 1.6]).reshape(1, 4, 1, 1, 1)

    def predict_epsilon(self, latent: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        alpha = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
        return latent * (1 - alpha).sqrt() / (alpha * self.deviation**2 + 1 - alpha)

    def exact_sample(self, noise: Tensor, start: int) -> Tensor:
        """Where the denoising differential equation goes from noise at timestep `start`."""
        alpha = self.alphas_cumprod[start]
        return noise * self.deviation / (alpha * self.deviation**2 + 1 - alpha).sqrt()


@pytest.fixture(scope="module")
def gaussian_prior() -> GaussianPrior:
    config = build_tiny_config()
    return GaussianPrior(config.backbone, config.latent_shape)


@contextmanager
def counting_calls(module: nn.Module) -> Iterator[list[int]]:
    calls: list[int] = []
    handle = module.register_forward_hook(lambda *_: calls.append(1))
    yield calls
    handle.remove()


@pytest.fixture
def features(tiny_model: LoadedModel, tiny_conditions: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return tiny_model.adapter.encode_condition({n: t[:1] for n, t in tiny_conditions.items()})


def run(model: LoadedModel, features: Tensor | None, **options: object) -> list[Step]:
    noise = initial_noise(7, model.config.latent_shape)
    options = {"num_inference_steps": 5} | options
    return list(trajectory(model.backbone, model.adapter, noise, CONTEXT, features, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sampler", "num_inference_steps", "tolerance"), [("unipc", 20, 0.015), ("dpmpp", 20, 0.02), ("ddim", 200, 0.08)]
)
def test_usual_number_of_steps_lands_where_the_differential_equation_goes(
    gaussian_prior: GaussianPrior, sampler: str, num_inference_steps: int, tolerance: float
) -> None:
    """In every channel: fine structure must not be lost in the last step."""
    noise = initial_noise(1, gaussian_prior.latent_shape)
    options = {"num_inference_steps": num_inference_steps, "sampler": sampler}
    steps = list(trajectory(gaussian_prior, None, noise, CONTEXT, None, **options))
    exact = gaussian_prior.exact_sample(noise, steps[0].timestep)
    error = (steps[-1].latent - exact).flatten(2).norm(dim=2) / exact.flatten(2).norm(dim=2)
    assert float(error.max()) < tolerance


@pytest.mark.parametrize("sampler", SOLVERS)
def test_more_steps_come_closer_to_the_exact_answer(gaussian_prior: GaussianPrior, sampler: str) -> None:
    noise = initial_noise(1, gaussian_prior.latent_shape)
    errors = []
    for num_inference_steps in (5, 20, 100):
        steps = list(
            trajectory(
                gaussian_prior, None, noise, CONTEXT, None, num_inference_steps=num_inference_steps, sampler=sampler
            )
        )
        errors.append(float((steps[-1].latent - gaussian_prior.exact_sample(noise, steps[0].timestep)).norm()))
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("num_inference_steps", [1, 2, 3, 7, 49, 600, 999, 1000])
@pytest.mark.parametrize("sampler", SOLVERS)
def test_any_number_of_steps_gives_a_finite_sample(
    gaussian_prior: GaussianPrior, sampler: str, num_inference_steps: int
) -> None:
    noise = initial_noise(2, gaussian_prior.latent_shape)
    latent = sample(
        gaussian_prior, None, noise, CONTEXT, None, num_inference_steps=num_inference_steps, sampler=sampler
    )
    assert bool(latent.isfinite().all())
    assert float(latent.std()) < 2


@pytest.mark.parametrize("sampler", SOLVERS)
def test_every_number_of_steps_visits_as_many_falling_timesteps(sampler: str) -> None:
    for num_inference_steps in range(1, 1001, 1 if sampler == "ddim" else 37):
        timesteps = build_solver(sampler, ScheduleConfig(), num_inference_steps).timesteps
        assert len(timesteps) == num_inference_steps
        assert 0 <= timesteps[-1] <= timesteps[0] < 1000
        assert all(a > b for a, b in pairwise(timesteps))


def test_ddim_follows_the_published_rule_by_default() -> None:
    assert ddim_timesteps(ScheduleConfig(), 10) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]


def test_trailing_ddim_starts_at_the_noisiest_timestep() -> None:
    schedule = ScheduleConfig(ddim_timesteps="trailing")
    assert ddim_timesteps(schedule, 10) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    assert ddim_timesteps(schedule, 3) == [999, 665, 332]


@pytest.mark.parametrize("num_train_timesteps", [1000, 7])
def test_quadratic_timesteps_are_distinct_from_the_noisiest_to_the_cleanest(num_train_timesteps: int) -> None:
    for num_inference_steps in range(2, num_train_timesteps + 1):
        timesteps = quadratic_timesteps(num_train_timesteps, num_inference_steps)
        assert len(timesteps) == num_inference_steps
        assert (timesteps[0], timesteps[-1]) == (num_train_timesteps - 1, 0)
        assert all(a > b for a, b in pairwise(timesteps))
    assert quadratic_timesteps(num_train_timesteps, 1) == [num_train_timesteps - 1]


@pytest.mark.parametrize("num_inference_steps", [9, 50])
def test_ddim_agrees_with_diffusers(gaussian_prior: GaussianPrior, num_inference_steps: int) -> None:
    schedule = gaussian_prior.config.schedule
    theirs = DDIMScheduler(trained_betas=build_betas(schedule).tolist(), clip_sample=False, timestep_spacing="leading")
    theirs.set_timesteps(num_inference_steps)
    expected = noise = initial_noise(3, gaussian_prior.latent_shape)
    for t in theirs.timesteps:
        epsilon = gaussian_prior.predict_epsilon(expected, t[None], CONTEXT)
        expected = theirs.step(epsilon, t, expected).prev_sample
    actual = sample(gaussian_prior, None, noise, CONTEXT, None, num_inference_steps=num_inference_steps, sampler="ddim")
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"guidance_scale": 0.0}, {"control_end": 0.0}, {"control_start": 1.0}])
def test_vcm_without_a_say_is_never_called(
    tiny_model: LoadedModel, features: Tensor, options: dict[str, float]
) -> None:
    with counting_calls(tiny_model.adapter) as calls:
        steps = run(tiny_model, features, **options)
    assert not calls
    assert torch.equal(steps[-1].latent, run(tiny_model, None)[-1].latent)


@pytest.mark.parametrize("sampler", SOLVERS)
def test_features_change_the_sample(tiny_model: LoadedModel, features: Tensor, sampler: str) -> None:
    controlled = run(tiny_model, features, sampler=sampler)[-1].latent
    assert not torch.allclose(controlled, run(tiny_model, None, sampler=sampler)[-1].latent, atol=1e-2)


def test_guidance_of_one_is_the_published_noise_to_the_bit(tiny_model: LoadedModel, features: Tensor) -> None:
    for step in run(tiny_model, features, guidance_scale=1.0):
        assert step.eps_scale is not None
        assert step.eps_shift is not None
        assert torch.equal(step.guided_epsilon, modulate(step.epsilon, step.eps_scale, step.eps_shift))


@pytest.mark.parametrize("guidance_scale", [0.4, 2.5])
def test_guidance_moves_along_the_line_from_the_prior_to_the_controlled_noise(
    tiny_model: LoadedModel, features: Tensor, guidance_scale: float
) -> None:
    step = run(tiny_model, features, guidance_scale=guidance_scale)[0]
    assert step.eps_scale is not None
    assert step.eps_shift is not None
    controlled = modulate(step.epsilon, step.eps_scale, step.eps_shift)
    expected = step.epsilon + guidance_scale * (controlled - step.epsilon)
    torch.testing.assert_close(step.guided_epsilon, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("window", "controlled"),
    [
        ((0.0, 1.0), range(10)),
        ((0.0, 0.3), range(3)),
        ((0.3, 1.0), range(3, 10)),
        ((0.25, 0.31), [3]),
        ((0.5, 0.5), []),
    ],
)
def test_control_window_chooses_the_steps_that_begin_inside_it(
    tiny_model: LoadedModel, features: Tensor, window: tuple[float, float], controlled: list[int]
) -> None:
    start, end = window
    steps = run(tiny_model, features, num_inference_steps=10, control_start=start, control_end=end)
    assert [step.index for step in steps if step.eps_scale is not None] == list(controlled)


def test_last_clean_estimate_of_ddim_is_the_sample(tiny_model: LoadedModel, features: Tensor) -> None:
    last = run(tiny_model, features, sampler="ddim")[-1]
    torch.testing.assert_close(last.clean_latent, last.latent)


def test_clean_estimate_solves_the_noising_equation(tiny_model: LoadedModel, features: Tensor) -> None:
    for step in run(tiny_model, features):
        noised = tiny_model.backbone.add_noise(step.clean_latent, step.guided_epsilon, torch.tensor([step.timestep]))
        torch.testing.assert_close(noised, step.noisy_latent, rtol=1e-4, atol=1e-4)


def test_steps_join_end_to_end(tiny_model: LoadedModel, features: Tensor) -> None:
    steps = run(tiny_model, features)
    assert torch.equal(steps[0].noisy_latent, initial_noise(7, tiny_model.config.latent_shape))
    assert all(b.noisy_latent is a.latent for a, b in pairwise(steps))
    assert [step.index for step in steps] == list(range(5))


def test_sample_is_the_last_latent_of_the_trajectory(tiny_model: LoadedModel, features: Tensor) -> None:
    noise = initial_noise(7, tiny_model.config.latent_shape)
    latent = sample(tiny_model.backbone, tiny_model.adapter, noise, CONTEXT, features, num_inference_steps=5)
    assert torch.equal(latent, run(tiny_model, features)[-1].latent)


def test_closing_stops_the_work_within_one_step(tiny_model: LoadedModel, features: Tensor) -> None:
    noise = initial_noise(7, tiny_model.config.latent_shape)
    with counting_calls(tiny_model.backbone.diffusion) as calls:
        steps = trajectory(tiny_model.backbone, tiny_model.adapter, noise, CONTEXT, features, num_inference_steps=50)
        next(steps)
        next(steps)
        steps.close()
        assert len(calls) == 2
        with pytest.raises(StopIteration):
            next(steps)


def test_no_gradient_is_recorded_and_the_caller_keeps_its_own_setting(
    tiny_model: LoadedModel, features: Tensor
) -> None:
    noise = initial_noise(7, tiny_model.config.latent_shape)
    for step in trajectory(tiny_model.backbone, tiny_model.adapter, noise, CONTEXT, features, num_inference_steps=2):
        assert not step.latent.requires_grad
        assert torch.is_grad_enabled()


@pytest.mark.parametrize("sampler", SOLVERS)
def test_runs_that_take_turns_do_not_disturb_each_other(
    tiny_model: LoadedModel, features: Tensor, sampler: str
) -> None:
    alone = run(tiny_model, features, sampler=sampler)[-1].latent
    noise = initial_noise(7, tiny_model.config.latent_shape)
    both = [
        trajectory(
            tiny_model.backbone, tiny_model.adapter, noise, CONTEXT, wanted, num_inference_steps=5, sampler=sampler
        )
        for wanted in (features, None)
    ]
    *_, (last, _) = zip(*both, strict=True)
    assert torch.equal(last.latent, alone)


def test_same_seed_gives_the_same_bits(tiny_model: LoadedModel, features: Tensor) -> None:
    assert torch.equal(run(tiny_model, features)[-1].latent, run(tiny_model, features)[-1].latent)


def test_noise_of_a_seed_does_not_depend_on_its_batch() -> None:
    noise = initial_noise([5, 2**32 - 1, 0], (4, 2, 3, 2))
    assert noise.shape == (3, 4, 2, 3, 2)
    assert noise.dtype == torch.float32
    assert torch.equal(noise[1:2], initial_noise(2**32 - 1, (4, 2, 3, 2)))
    assert not torch.equal(noise[0], noise[2])


def test_drawing_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    initial_noise(1, (4, 2, 2, 2))
    assert torch.equal(torch.get_rng_state(), before)


def test_batch_gives_what_each_sample_gives_alone(tiny_model: LoadedModel, features: Tensor) -> None:
    noise = initial_noise([1, 2], tiny_model.config.latent_shape)
    options = {"num_inference_steps": 4, "sampler": "ddim"}
    together = sample(
        tiny_model.backbone, tiny_model.adapter, noise, CONTEXT.expand(2, -1, -1), features.expand(2, -1, -1, -1, -1),
        **options,
    )  # fmt: skip
    for i in range(2):
        alone = sample(tiny_model.backbone, tiny_model.adapter, noise[i : i + 1], CONTEXT, features, **options)
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("num_inference_steps", [0, -1, 1001])
def test_number_of_steps_out_of_range_is_refused(tiny_model: LoadedModel, num_inference_steps: int) -> None:
    with pytest.raises(ValueError, match="num_inference_steps must be from 1 to 1000"):
        run(tiny_model, None, num_inference_steps=num_inference_steps)


def test_shorter_schedule_allows_fewer_steps() -> None:
    with pytest.raises(ValueError, match="from 1 to 10"):
        build_solver("ddim", replace(ScheduleConfig(), num_train_timesteps=10), 11)


def test_unknown_sampler_is_refused(tiny_model: LoadedModel) -> None:
    with pytest.raises(ValueError, match="sampler must be one of unipc, ddim, dpmpp, got 'euler'"):
        run(tiny_model, None, sampler="euler")


def test_a_solver_that_is_registered_is_one_everywhere(monkeypatch):
    """One entry is all that a new solver needs: requests, the command line, HTTP and the page list the registry."""
    from vcm.request import GenerationRequest
    from vcm.sampler import solvers

    euler = solvers.SolverKind("euler", "Euler", solvers.SOLVERS["ddim"].build)
    registry = {**solvers.SOLVERS, euler.name: euler}
    for module in ("vcm.sampler.solvers", "vcm.request"):
        monkeypatch.setattr(f"{module}.SOLVERS", registry)
    assert GenerationRequest({}, sampler="euler").sampler == "euler"
    assert build_solver("euler", ScheduleConfig(), 5).timesteps == build_solver("ddim", ScheduleConfig(), 5).timesteps
