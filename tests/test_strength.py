"""A VCM is made as strong as it takes for tumors to have their contrast, and not by the judge."""

from dataclasses import replace

import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from tiny import build_tiny_config, build_tiny_model, randomize
from torch.nn import functional

from vcm.data.cohort import read_json
from vcm.model.backbone import Backbone
from vcm.model.vcm import VCM
from vcm.train import strength
from vcm.train.loop import LoopConfig
from vcm.train.pairs import Pairs
from vcm.train.strength import STRENGTH_FILE, choose_strength, measure_contrasts, settle_strength
from vcm.train.vcm import AdapterRecipe, train_adapter


@pytest.fixture(scope="module")
def cohorts() -> CoarseCohorts:
    return CoarseCohorts(make_coarse_subjects())


@pytest.fixture
def few(monkeypatch) -> None:
    monkeypatch.setattr(strength, "_MOST_SUBJECTS", 2)


def build_pairs(cohorts, folder, backbone, **which) -> Pairs:
    return Pairs(folder / "latents", cohorts(folder, range(2), **which), backbone, "cpu", (2.0, 2.0, 2.0))


@pytest.mark.parametrize("changes", [{}, {"static_maps": True}, {"velocity_schedule": None}])
def test_scale_and_shift_are_multiplied_and_nothing_else(changes) -> None:
    config = build_tiny_config(GRID)
    whole = config.adapter
    if "velocity_schedule" not in changes:
        changes = {"velocity_schedule": config.backbone.schedule, **changes}
    adapter = VCM(replace(whole, **changes)).eval()
    randomize(adapter, 3)
    random = torch.Generator().manual_seed(0)
    latent, epsilon = (torch.randn((2, *config.latent_shape), generator=random) for _ in range(2))
    conditions = {"tumor": torch.rand((2, 3, *GRID.shape), generator=random)}
    timesteps = torch.tensor([40, 900])

    def run() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return adapter(latent, epsilon, adapter.encode_condition(conditions), timesteps)

    before = run()
    adapter.strengthen(1.5)
    for was, now in zip(before, run(), strict=True):
        assert was.abs().max() > 0
        torch.testing.assert_close(now, 1.5 * was, rtol=1e-4, atol=1e-5)


def test_normalised_heads_cannot_be_strengthened() -> None:
    adapter = VCM(replace(build_tiny_config(GRID).adapter, normalize_heads=True))
    with pytest.raises(ValueError, match="normalised"):
        adapter.strengthen(2.0)


@pytest.mark.parametrize(
    ("contrasts", "chosen"),
    [
        ({}, 1.0),
        ({1.0: 1.3}, 1.0),
        ({1.0: 0.5, 1.25: 0.75, 1.5: 1.0}, 1.5),
        ({1.0: 0.5, 1.25: 0.9, 1.5: 1.1}, 1.38),
        ({1.0: 0.2, 1.5: 0.3, 2.0: 0.4}, 2.0),
        ({1.0: 0.0, 1.5: 0.0, 2.0: 0.0}, 1.0),
        ({1.0: -0.1, 1.5: -0.2, 2.0: -0.3}, 1.0),
    ],
)
def test_the_least_strength_with_the_whole_contrast_is_chosen(contrasts, chosen) -> None:
    assert choose_strength(contrasts) == chosen


def test_a_tumor_that_is_there_whole_has_the_contrast_one_and_a_fainter_one_less(
    cohorts, tmp_path, few, monkeypatch
) -> None:
    """In place of the sampler: the uncontrolled latent is the true one without its tumor's cells."""
    model = build_tiny_model(GRID)
    pairs = build_pairs(cohorts, tmp_path, model.backbone)
    latents, _, share = pairs.targets([0, 1])
    without = latents * (1 - (functional.max_pool3d(share, 3, 1, 1) > 0).float())

    torch.nn.init.ones_(model.adapter.heads.shift.bias)

    def sample(backbone, adapter, noise, context, features):
        strength = 0.0 if adapter is None else float(adapter.heads.shift.bias[0])
        return without + strength / 1.5 * (latents - without)

    monkeypatch.setattr(strength, "sample", sample)
    monkeypatch.setattr(Backbone, "decode_volumes", lambda self, latents: [grown(latent) for latent in latents])

    def grown(latent: torch.Tensor):
        return functional.interpolate(latent[None, :1], GRID.shape)[0, 0].numpy()

    contrasts = measure_contrasts(model.backbone, model.adapter, pairs, 2)
    assert list(contrasts) == [1.0, 1.25, 1.5]
    assert contrasts[1.0] == pytest.approx(2 / 3, abs=1e-4)
    assert contrasts[1.5] == pytest.approx(1.0, abs=1e-4)
    assert choose_strength(contrasts) == pytest.approx(1.5, abs=0.01)


def test_what_shows_no_tumor_leaves_the_strength_alone(cohorts, tmp_path, few) -> None:
    model = build_tiny_model(GRID)
    healthy = build_pairs(cohorts, tmp_path / "healthy", model.backbone, with_tumor=False)
    assert measure_contrasts(model.backbone, model.adapter, healthy, 2) == {}
    untrained = VCM(model.config.adapter).eval()
    before = {name: tensor.clone() for name, tensor in untrained.state_dict().items()}
    settle_strength(untrained, model.backbone, build_pairs(cohorts, tmp_path, model.backbone), 2, tmp_path)
    assert read_json(tmp_path / STRENGTH_FILE)["strength"] == 1.0
    for name, tensor in untrained.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_a_training_ends_with_it_and_its_state_stays_as_learned(cohorts, tmp_path, few, monkeypatch) -> None:
    monkeypatch.setattr("vcm.train.vcm.simulated_cohort", cohorts)
    monkeypatch.setattr(strength, "choose_strength", lambda contrasts: 2.0)
    loop = LoopConfig(steps=3, learning_rate=1e-2, warmup_steps=1, save_every=3, log_every=2)
    recipe = AdapterRecipe(subjects=2, loop=loop)
    config = build_tiny_config(GRID).adapter
    strong = train_adapter(tmp_path, build_tiny_model(GRID).backbone, config, recipe=recipe)
    facts = read_json(tmp_path / STRENGTH_FILE)
    assert facts["strength"] == 2.0
    assert set(facts["contrasts"]) <= {f"{each:g}" for each in strength.STRENGTHS}
    again = train_adapter(tmp_path, build_tiny_model(GRID).backbone, config, recipe=recipe, resume=True)
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, strong.state_dict()[name]), name
