"""Training sketch maps alone: what learns, what stays, and that steps computed before are used again."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from tiny import build_tiny_config, build_tiny_model, sketching
from torch import Tensor

from vcm.adapter import VCM, modulate
from vcm.backbone import Backbone
from vcm.checkpoint import load_model, save_model
from vcm.train import sketch_maps, stages
from vcm.train.loop import LoopConfig
from vcm.train.record import read_training
from vcm.train.sketch_maps import SketchRecipe, train_sketch_maps

LOOP = LoopConfig(steps=40, learning_rate=1e-2, warmup_steps=2, save_every=20, validate_every=20, log_every=1)
RECIPE = SketchRecipe(subjects=2, views=8, loop=LOOP, batch_size=2)
CONFIG = sketching(build_tiny_config(GRID).adapter)


@pytest.fixture(scope="module")
def subjects() -> list[dict]:
    return make_coarse_subjects()


@pytest.fixture
def cohorts(subjects, monkeypatch) -> CoarseCohorts:
    cohorts = CoarseCohorts(subjects)
    monkeypatch.setattr("vcm.train.adapter.simulated_cohort", cohorts)
    monkeypatch.setattr("vcm.train.adapter.HELD_OUT", 4)  # all of them do as well, but take minutes
    monkeypatch.setattr("vcm.train.strength._MOST_SUBJECTS", 1)
    return cohorts


@pytest.fixture
def backbone() -> Backbone:
    return build_tiny_model(GRID).backbone


@pytest.fixture
def before() -> dict[str, Tensor]:
    """A VCM that is the identity so far, as half precision has it."""
    torch.manual_seed(3)
    return {name: tensor.half().float() for name, tensor in VCM(CONFIG).state_dict().items()}


def read_log(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """The indices of the batches of conditions that were read."""
    indices = []
    plain = sketch_maps._draw
    monkeypatch.setattr(sketch_maps, "_draw", lambda *given: indices.append(given[-1]) or plain(*given))
    return indices


def test_the_maps_learn_and_all_else_stays(cohorts, backbone, before, tmp_path):
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    adapter = train_sketch_maps(tmp_path, backbone, CONFIG, initial=before, recipe=RECIPE)
    assert adapter.sketch_maps is not None
    assert adapter.sketch_maps.maps.weight.abs().sum() > 0
    for name, tensor in adapter.state_dict().items():
        if not name.startswith(("sketch_maps.", "heads.", "static_maps.maps.")):  # strength is settled by their weights
            assert torch.equal(tensor, before[name]), name
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in backbone.state_dict().items())
    log = [entry for entry in read_log(tmp_path) if "loss" in entry]
    assert log[0]["inside"] == pytest.approx(log[0]["inside_before"], rel=1e-6)
    validations = [entry["validation"] for entry in read_log(tmp_path) if "validation" in entry]
    assert validations[-1]["loss"] < validations[-1]["inside_before"]


def test_what_the_maps_make_up_for_is_what_the_vcm_lacks(cohorts, backbone, before, tmp_path):
    """The objective of kept steps is that of the VCM itself, up to the half precision they are kept in."""
    adapter = train_sketch_maps(tmp_path, backbone, CONFIG, initial=before, recipe=RECIPE)
    silent = VCM(CONFIG).eval()
    silent.load_state_dict(before)
    silent.look_through(backbone)
    pairs = sketch_maps.find_material(tmp_path, backbone, CONFIG, 2, "cpu", None, None, None).pairs
    view = sketch_maps._draw(silent, backbone, pairs, RECIPE, 0, 0)
    identity = json.loads((tmp_path / "moments-training" / "done.json").read_text())
    del identity["batches"]
    kept = sketch_maps.kept_moments(
        tmp_path / "moments-training", identity, 4, 2, lambda index: view, backbone, silent, "cpu"
    )
    noised = view.noised[1]
    assert kept.timesteps[:2, 1].tolist() == noised.timesteps.tolist()
    silent.sketch_maps.load_state_dict(adapter.sketch_maps.state_dict())
    with torch.no_grad():
        epsilon = backbone.predict_epsilon(noised.latent, noised.timesteps, noised.context)
        features = silent.gather_features(view.joined, view.seen)
        made = modulate(epsilon, *silent(noised.latent, epsilon, features, noised.timesteps))
        missed = (noised.noise - made) / noised.signal
        maps = adapter.sketch_maps
        signal = noised.signal
        faded = maps.fade(maps(view.joined, view.seen), signal, (1 - signal**2).sqrt())
    take = {name: kept.take(name, [0, 1], "cpu")[:, 1] for name in ("clean", "latent", "missing")}
    with_maps = take["missing"] - sketch_maps.change_velocity(faded, take["clean"], take["latent"])
    scale = missed.abs().amax()
    torch.testing.assert_close(with_maps / scale, missed / scale, atol=5e-3, rtol=0)


def test_conditions_are_read_once_and_again_only_for_another_vcm(cohorts, backbone, before, drawn, tmp_path):
    recipe = replace(RECIPE, loop=replace(LOOP, steps=2))
    train_sketch_maps(tmp_path, backbone, CONFIG, initial=before, recipe=recipe)
    everything = [0, 1, 2, 3, 0, 1]  # four batches to learn from, two that are held out
    assert drawn == everything
    longer = replace(recipe, loop=replace(LOOP, steps=4))
    train_sketch_maps(tmp_path, backbone, CONFIG, initial=None, recipe=longer, resume=True)
    assert drawn == everything
    (tmp_path / "state.pt").unlink()
    other = {name: tensor + 0.5 if name.startswith("heads.shared") else tensor for name, tensor in before.items()}
    train_sketch_maps(tmp_path, backbone, CONFIG, initial=other, recipe=recipe)
    assert drawn == 2 * everything


def test_reading_goes_on_where_it_was_stopped(cohorts, backbone, before, drawn, tmp_path, monkeypatch):
    recipe = replace(RECIPE, views=24, loop=replace(LOOP, steps=2))
    whole = train_sketch_maps(tmp_path / "whole", backbone, CONFIG, initial=before, recipe=recipe)
    drawn.clear()
    plain = sketch_maps._draw

    def stopping(*given) -> sketch_maps.View:
        if given[-1] == 10 and drawn.count(10) == 0:
            drawn.append(10)
            raise KeyboardInterrupt
        return plain(*given)

    monkeypatch.setattr(sketch_maps, "_draw", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_sketch_maps(tmp_path / "cut", backbone, CONFIG, initial=before, recipe=recipe)
    cut = train_sketch_maps(tmp_path / "cut", backbone, CONFIG, initial=before, recipe=recipe)
    assert drawn[:13] == [*range(11), 10, 11]  # ten were kept
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_vcm_without_a_sketch_has_nothing_to_train(backbone, before, tmp_path):
    with pytest.raises(ValueError, match="reads no sketches"):
        train_sketch_maps(tmp_path, backbone, replace(CONFIG, sketch=None), initial=before)


def test_the_stage_gives_a_vcm_its_sketch_and_leaves_a_model_that_loads(cohorts, tmp_path, monkeypatch):
    config = build_tiny_config(GRID)
    monkeypatch.setattr(stages, "build_mini_config", lambda: config)
    monkeypatch.setattr(stages, "SketchRecipe", lambda: RECIPE)
    tiny = build_tiny_model(GRID)
    save_model(tmp_path / "tiny", tiny.config, tiny.backbone, tiny.adapter)
    out = stages.train("sketch", tmp_path / "out", model=tmp_path / "tiny", steps=3)
    made = load_model(out)
    assert made.config.adapter.sketch is not None
    assert set(made.config.adapter.sketch) == {"tumor", "anatomy"}
    assert made.adapter.sketch_maps is not None
    assert made.adapter.sketcher is not None
    [run] = read_training(out)["sketch"]
    assert run["steps"] == 3
    assert run["from_weights"]
    assert "strength" in run
    stages.train("sketch", out, steps=5, resume=True)
    assert [run["steps"] for run in read_training(out)["sketch"]] == [5]
