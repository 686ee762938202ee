"""The painter: what it sees, what it leaves as it is, and that it learns before its VCM does."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import (
    ALL_CHANNELS,
    DRAFT,
    TINY_GRID,
    all_conditions,
    build_tiny_config,
    build_tiny_model,
    drafting,
    randomize,
)

from vcm.data.cohort import Cohort
from vcm.modalities.image_conditions import CONTRASTS
from vcm.model.config import AdapterConfig, ConfigError, Grid, PainterConfig
from vcm.model.painter import Painter
from vcm.model.sketch import Sketcher, read_given
from vcm.model.vcm import VCM
from vcm.train import vcm as adapter_training
from vcm.train.loop import LoopConfig
from vcm.train.more_conditions import carry_over
from vcm.train.painter import set_painters_aside, train_painter
from vcm.train.pairs import Pairs
from vcm.train.vcm import AdapterRecipe, Material, train_adapter

CONFIG = PainterConfig(channels=(4, 8))
LOOP = LoopConfig(steps=4, learning_rate=1e-3, warmup_steps=1, save_every=2, validate_every=4, log_every=1)
CPU = torch.device("cpu")
GRID = Grid((24, 32, 24), TINY_GRID.affine)
"""Its deepest level has 3 x 4 x 3 cells: of fewer, gradients in bfloat16 are now and then no numbers (oneDNN)."""


@pytest.fixture
def backbone():
    return build_tiny_model().backbone


@pytest.fixture
def sketcher(backbone) -> Sketcher:
    return Sketcher(backbone, DRAFT.intensities)


@pytest.fixture
def large_backbone():
    return build_tiny_model(GRID).backbone


@pytest.fixture
def subjects() -> Cohort:
    """Two subjects whose T1 is their T2 upside down: what a painter can learn."""
    random = np.random.default_rng(0)
    t2 = np.kron(random.random((2, 6, 8, 6), dtype=np.float32), np.ones((1, 4, 4, 4), np.float32))
    tumor = np.zeros(t2.shape, np.uint8)
    tumor[:, 4:8, 4:8, 4:8] = 1
    anatomy = np.full(t2.shape, 2, np.uint8)
    images = {"t1": 1 - t2, "t2": t2, "flair": t2}
    context, volumes_ml = np.full((2, 4), 0.5, np.float32), np.ones((2, 2), np.float32)
    return Cohort(
        seeds=range(2),
        images=images,
        tumor=tumor,
        anatomy=anatomy,
        anatomy_before=anatomy,
        context=context,
        volumes_ml=volumes_ml,
    )


def painting(config: AdapterConfig) -> AdapterConfig:
    return replace(drafting(config), draft=replace(DRAFT, painter=CONFIG))


def build_random_painter() -> Painter:
    painter = Painter(CONFIG, CONTRASTS)
    randomize(painter, 0)
    return painter.eval()


def test_a_new_painter_leaves_the_mean_brain_as_it_is(sketcher):
    given, mean = read_given(all_conditions(2)), sketcher.mean_brain(CPU).expand(2, -1, -1, -1, -1)
    painted = Painter(CONFIG, CONTRASTS)(mean, given)
    assert painted.shape == (2, 1, *TINY_GRID.shape)
    torch.testing.assert_close(painted, mean)


def test_a_painter_sees_only_what_a_sample_keeps_and_paints_nothing_over_those_that_keep_none(sketcher):
    painter, conditions = build_random_painter(), all_conditions(3)
    keep = {"t2": torch.tensor([True, True, False]), "flair": torch.tensor([True, False, False])}
    mean = sketcher.mean_brain(CPU)
    painted = painter(mean.expand(3, -1, -1, -1, -1), read_given(conditions, keep))
    for index, names in enumerate((["t2", "flair"], ["t2"])):
        alone = painter(mean, read_given({name: conditions[name][index : index + 1] for name in names}))
        torch.testing.assert_close(painted[index : index + 1], alone, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(alone, mean)
    torch.testing.assert_close(painted[2:], mean)
    assert not torch.allclose(painted[0], painted[1])


def test_an_absent_contrast_is_told_from_a_black_one(sketcher):
    painter, mean = build_random_painter(), sketcher.mean_brain(CPU)
    scan, black = torch.rand_like(mean), torch.zeros_like(mean)
    images = [painter(mean, read_given(given)) for given in ({"t2": scan}, {"t2": scan, "flair": black})]
    assert not torch.allclose(*images)


def test_what_was_painted_is_under_what_is_known_better_and_the_frozen_encoder_sees_it(sketcher, backbone):
    painter, conditions = build_random_painter(), all_conditions()
    given = read_given({name: conditions[name] for name in ("t2", "flair", "tumor")})
    sketch = sketcher.draw(given, painter)
    is_tumor = given["tumor"][0].any(dim=1, keepdim=True)
    assert torch.equal(sketch[~is_tumor], painter(sketcher.mean_brain(CPU), given)[~is_tumor])
    assert torch.equal(sketch[is_tumor], sketcher.draw(given)[is_tumor])
    channels = backbone.latent_shape[0]
    scans = {name: conditions[name] for name in ("t2", "flair")}
    views = sketcher.look(scans, painter=painter)
    torch.testing.assert_close(views[:, :channels], backbone.encode(sketcher.draw(read_given(scans), painter)))
    assert not sketcher.look(scans)[:, :channels].any()  # without a painter nothing is known of the T1
    torch.testing.assert_close(views[:, channels:], sketcher.look(scans)[:, channels:])


def test_a_painter_learns_what_follows_from_the_conditions(subjects, large_backbone, tmp_path):
    sketcher = Sketcher(large_backbone, DRAFT.intensities)
    pairs = Pairs(tmp_path / "latents", subjects, large_backbone, "cpu", (2.0, 2.0, 2.0))
    painter = Painter(CONFIG, ["t2"])
    loop = replace(LOOP, steps=40, learning_rate=1e-2)
    given = read_given({"t2": torch.from_numpy(subjects.images["t2"][:1, None])})
    mean, image = sketcher.mean_brain(CPU), torch.from_numpy(subjects.images["t1"][:1, None])
    before = (painter(mean, given) - image).square().mean()
    trained = train_painter(painter, sketcher, pairs, pairs, tmp_path, loop=loop)
    assert (trained(mean, given) - image).square().mean() < 0.3 * before
    again = train_painter(Painter(CONFIG, ["t2"]), sketcher, pairs, pairs, tmp_path, loop=loop)
    for name, tensor in again.state_dict().items():  # the run in the folder is over
        assert torch.equal(tensor, trained.state_dict()[name])


@pytest.fixture
def train(subjects, large_backbone, monkeypatch):
    """Trains a VCM with a painter for a few steps, from weights or from nothing."""
    config = painting(build_tiny_config(GRID, {"tumor": 3, "t2": 1}).adapter)

    def find_material(folder, *_):
        folder.mkdir(parents=True, exist_ok=True)
        pairs = Pairs(folder / "latents", subjects, large_backbone, "cpu", (2.0, 2.0, 2.0))
        return Material(pairs, pairs, GRID.affine)

    monkeypatch.setattr(adapter_training, "find_material", find_material)
    recipe = AdapterRecipe(subjects=2, batch_size=2, loop=replace(LOOP, steps=2), painter_loop=LOOP)
    return lambda folder, **options: train_adapter(folder, large_backbone, config, recipe=recipe, **options)


def test_a_painter_learns_before_its_vcm_does_and_then_no_more(train, tmp_path):
    first = train(tmp_path / "first")
    painted = torch.load(tmp_path / "first/painter-t2/state.pt", weights_only=True)["averaged"]
    assert painted["paint.weight"].any()
    for name, tensor in painted.items():
        assert torch.equal(first.state_dict()[f"painter.{name}"], tensor)
    assert not any(parameter.requires_grad for parameter in first.painter.parameters())

    further = train(tmp_path / "further", initial=first.state_dict())
    assert not list((tmp_path / "further").glob("painter*"))
    assert torch.equal(further.painter.paint.weight, first.painter.paint.weight)
    assert not torch.equal(further.draft.correct.weight, first.draft.correct.weight)

    without = {name: tensor for name, tensor in first.state_dict().items() if not name.startswith("painter.")}
    train(tmp_path / "gained", initial=without)
    assert (tmp_path / "gained/painter-t2/state.pt").is_file()


def test_a_training_that_goes_on_has_its_painter_already(train, tmp_path):
    first = train(tmp_path / "first")
    (tmp_path / "first/painter-t2/state.pt").unlink()
    again = train(tmp_path / "first", resume=True)
    assert not (tmp_path / "first/painter-t2/state.pt").exists()
    assert torch.equal(again.painter.paint.weight, first.painter.paint.weight)


def test_weights_of_another_vcm_are_still_refused(train, tmp_path):
    other = VCM(build_tiny_config(channels={"anatomy": 4}).adapter)
    with pytest.raises(RuntimeError, match="Missing key"):
        train(tmp_path, initial=other.state_dict())


def test_a_vcm_for_other_contrasts_begins_without_the_painter_of_these(train, tmp_path):
    before, after = (
        painting(build_tiny_config(GRID, channels).adapter) for channels in (ALL_CHANNELS, {"tumor": 3, "t2": 1})
    )
    earlier = VCM(before)
    randomize(earlier, 0)
    same = carry_over(earlier.state_dict(), before, before)
    assert torch.equal(same.painter.paint.weight, earlier.painter.paint.weight)
    later = carry_over(earlier.state_dict(), before, after)
    assert not later.painter.paint.weight.any()
    train(tmp_path, initial=later.state_dict())
    assert (tmp_path / "painter-t2/state.pt").is_file()


def test_its_configuration_travels_with_the_weights_and_is_left_out_where_there_is_none():
    config = painting(build_tiny_config(channels=ALL_CHANNELS).adapter)
    assert AdapterConfig.from_json(config.to_json()) == config
    assert "painter" not in drafting(config).to_dict()["draft"]
    assert {name.split(".")[0] for name in VCM(config).state_dict()} >= {"painter", "draft"}


def test_a_vcm_without_other_contrasts_has_nobody_to_paint_them():
    assert VCM(painting(build_tiny_config().adapter)).painter is None


@pytest.mark.parametrize("channels", [(), (8,), (8, 0)])
def test_painters_that_cannot_be_are_refused(channels):
    with pytest.raises(ConfigError, match="painter"):
        PainterConfig(channels=channels)


def test_a_new_run_does_not_go_on_with_the_painter_of_an_earlier_one(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "painter-t2").mkdir()
        (tmp_path / "painter-t2" / "state.pt").write_text(content)
        set_painters_aside(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["previous-painter-t2"]
    assert (tmp_path / "previous-painter-t2" / "state.pt").read_text() == "second"
