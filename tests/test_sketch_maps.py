"""Sketch maps fitted alone: they are the best there are, all else stays, and reading goes on where it was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from tiny import build_tiny_config, build_tiny_model, randomize, sketching
from torch import Tensor

from vcm.adapter import VCM
from vcm.backbone import Backbone
from vcm.checkpoint import load_model, read_weights, save_model
from vcm.config import SKETCH_KNOTS
from vcm.static_maps import SketchMaps, weigh_knots
from vcm.train import sketch_maps, stages
from vcm.train.objective import weigh_error
from vcm.train.record import read_training
from vcm.train.sketch_maps import FIT_FILE, SketchRecipe, Sums, View, gather_inputs, train_sketch_maps

RECIPE = SketchRecipe(subjects=2, views=8, held_out=4, batch_size=2)
CONFIG = sketching(build_tiny_config(GRID).adapter)
CELLS = (3, 4, 3)


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
def read(monkeypatch) -> list[int]:
    """The indices of the batches of conditions that were read."""
    indices = []
    plain = sketch_maps._read
    monkeypatch.setattr(sketch_maps, "_read", lambda *given: indices.append(given[-1]) or plain(*given))
    return indices


@pytest.fixture
def backbone() -> Backbone:
    return build_tiny_model(GRID).backbone


@pytest.fixture
def before() -> dict[str, Tensor]:
    """A VCM that is the identity so far."""
    torch.manual_seed(3)
    return VCM(CONFIG).state_dict()


def draw_views(count: int, seed: int = 0) -> list[View]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        View(
            joined=draw(2, 8, *CELLS),
            seen=draw(2, 12, *CELLS),
            tumor_share=draw(2, 1, *CELLS).sigmoid(),
            positions=[torch.rand(2, generator=generator) for _ in range(2)],
            missing=[draw(2, 4, *CELLS) for _ in range(2)],
        )
        for _ in range(count)
    ]


def sum_up(views: list[View]) -> Sums:
    size, knots = 12 * 27 + 8 + 1, len(SKETCH_KNOTS)
    sums = Sums(torch.zeros(knots, knots, size, size), torch.zeros(knots, size, 4))
    for view in views:
        sums.add(view, tumor_weight=25.0)
    return sums


def test_the_maps_compute_what_they_were_fitted_as():
    maps = SketchMaps(8, 12, 4)
    weights = torch.randn(len(SKETCH_KNOTS), 12 * 27 + 8 + 1, 4)
    sketch_maps._set(maps, weights)
    [view] = draw_views(1)
    positions = torch.tensor([0.0, 0.55])
    made = SketchMaps.mix(maps(view.joined, view.seen), positions)
    for index in range(2):
        of_knots = torch.einsum("k,kic->ic", weigh_knots(positions)[index], weights)
        wanted = (gather_inputs(view.joined[index], view.seen[index]) @ of_knots).T.reshape(4, *CELLS)
        torch.testing.assert_close(made[index], wanted, rtol=1e-4, atol=1e-4)


def test_maps_that_are_the_truth_are_found_again():
    truth, found = SketchMaps(8, 12, 4), SketchMaps(8, 12, 4)
    randomize(truth, 5)
    torch.nn.init.zeros_(truth.read_seen.bias)  # it says the same as the other
    views = draw_views(80)
    for view in views:
        made = truth(view.joined, view.seen)
        view.missing[:] = [truth.mix(made, positions).detach() for positions in view.positions]
    sketch_maps._set(found, sum_up(views).solve(ridge=1e-7))
    for name, tensor in truth.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=0.02, atol=0.02)


def test_no_other_maps_have_a_lower_objective():
    views = draw_views(3)
    maps = SketchMaps(8, 12, 4)
    sketch_maps._set(maps, sum_up(views).solve(ridge=1e-6))
    losses = []
    for view in views:  # each view weighs the same
        made = maps(view.joined, view.seen)
        for positions, missing in zip(view.positions, view.missing, strict=True):
            lacks = missing - maps.mix(made, positions)
            for index in range(2):
                losses.append(weigh_error(lacks[index][None], view.tumor_share[index][None], 25.0)[0])
    torch.stack(losses).sum().backward()
    plain = sum(weigh_error(missing, view.tumor_share, 25.0)[0] for view in views for missing in view.missing)
    assert torch.stack(losses).sum() < 2 * plain
    for parameter in (maps.read_features.weight, maps.read_features.bias, maps.read_seen.weight):
        assert parameter.grad.abs().max() < 1e-3


def test_all_else_stays_and_what_was_gained_is_measured_on_others(cohorts, backbone, before, tmp_path):
    frozen = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    adapter = train_sketch_maps(tmp_path, backbone, CONFIG, initial=before, recipe=RECIPE)
    assert adapter.sketch_maps is not None
    assert adapter.sketch_maps.read_seen.weight.abs().sum() > 0
    kept = read_weights(tmp_path / sketch_maps.BEFORE_FILE)
    for name, tensor in adapter.state_dict().items():
        if not name.startswith(("sketch_maps.", "heads.", "static_maps.maps.")):  # strength is settled by their weights
            assert torch.equal(tensor, kept[name]), name
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in backbone.state_dict().items())
    figures = json.loads((tmp_path / FIT_FILE).read_text())
    assert figures["loss"] < figures["loss_before"]
    assert {range(100_000, 100_004), range(2)} == {seeds for seeds, _ in cohorts.asked}


def test_what_a_view_lacks_is_what_the_vcm_itself_gets_wrong(cohorts, backbone, before, tmp_path):
    train_sketch_maps(tmp_path, backbone, CONFIG, initial=before, recipe=RECIPE)
    pairs = sketch_maps.find_material(tmp_path, backbone, CONFIG, 2, "cpu", None, None, None).pairs
    identity = VCM(CONFIG).eval()
    identity.load_state_dict(before)
    identity.look_through(backbone)
    strong = VCM(CONFIG).eval()
    strong.load_state_dict(before)
    strong.look_through(backbone)
    torch.nn.init.constant_(strong.heads.shift.bias, 0.25)
    views = [sketch_maps._read(vcm, backbone, pairs, RECIPE, 0) for vcm in (identity, strong)]
    for without, shifted in zip(*(view.missing for view in views), strict=True):
        torch.testing.assert_close(without - shifted, torch.full_like(without, 0.25), rtol=0.02, atol=0.02)


def test_reading_goes_on_where_it_was_stopped(cohorts, backbone, before, read, tmp_path, monkeypatch):
    recipe = replace(RECIPE, views=24)
    whole = train_sketch_maps(tmp_path / "whole", backbone, CONFIG, initial=before, recipe=recipe)
    assert read[:12] == list(range(12))
    read.clear()
    plain = Sums.add

    def stopping(sums: Sums, view: View, tumor_weight: float) -> None:
        if read == list(range(11)):
            raise KeyboardInterrupt
        plain(sums, view, tumor_weight)

    monkeypatch.setattr(Sums, "add", stopping)
    with pytest.raises(KeyboardInterrupt):
        train_sketch_maps(tmp_path / "cut", backbone, CONFIG, initial=before, recipe=recipe)
    cut = train_sketch_maps(tmp_path / "cut", backbone, CONFIG, initial=None, recipe=recipe)
    assert read[:13] == [*range(11), 10, 11]  # ten were kept
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_views_of_another_vcm_are_read_anew(cohorts, backbone, before, read, tmp_path):
    train_sketch_maps(tmp_path, backbone, CONFIG, initial=before, recipe=RECIPE)
    everything = [0, 1, 2, 3]
    assert read[:4] == everything
    read.clear()
    train_sketch_maps(tmp_path, backbone, CONFIG, initial=before, recipe=RECIPE)
    assert not set(everything) & set(read)  # only those that are held out
    read.clear()
    other = {name: tensor + 0.5 if name.startswith("heads.shared") else tensor for name, tensor in before.items()}
    train_sketch_maps(tmp_path, backbone, CONFIG, initial=other, recipe=RECIPE)
    assert read[:4] == everything


def test_a_vcm_without_a_sketch_has_nothing_to_fit(backbone, before, tmp_path):
    with pytest.raises(ValueError, match="reads no sketches"):
        train_sketch_maps(tmp_path, backbone, replace(CONFIG, sketch=None), initial=before)


def test_the_stage_gives_a_vcm_its_sketch_and_leaves_a_model_that_loads(cohorts, tmp_path: Path, monkeypatch):
    config = build_tiny_config(GRID)
    monkeypatch.setattr(stages, "build_mini_config", lambda: config)
    monkeypatch.setattr(stages, "SketchRecipe", lambda: RECIPE)
    tiny = build_tiny_model(GRID)
    save_model(tmp_path / "tiny", tiny.config, tiny.backbone, tiny.adapter)
    out = stages.train("sketch", tmp_path / "out", model=tmp_path / "tiny", samples=2)
    made = load_model(out)
    assert made.config.adapter.sketch is not None
    assert set(made.config.adapter.sketch) == {"tumor", "anatomy"}
    assert made.adapter.sketcher is not None
    assert made.adapter.state_dict()["sketch_maps.read_seen.weight"].any()
    [run] = read_training(out)["sketch"]
    assert run["views"] == 8
    assert run["from_weights"]
    assert "strength" in run
    again = stages.train("sketch", out, resume=True)  # from the VCM that it was, not from the one with maps
    assert len(read_training(again)["sketch"]) == 1
    for name, tensor in load_model(again).adapter.state_dict().items():
        torch.testing.assert_close(tensor, made.adapter.state_dict()[name], rtol=1e-2, atol=1e-3)
    stages.train("sketch", out)
    assert len(read_training(out)["sketch"]) == 2


def test_a_fit_has_no_steps(tmp_path):
    with pytest.raises(ValueError, match="steps says nothing"):
        stages.train("sketch", tmp_path, steps=5)
