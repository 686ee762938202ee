"""Sketches: what is painted where, who sees it, and that nobody else notices."""

import copy
from dataclasses import replace

import pytest
import torch
from tiny import ALL_CHANNELS, INTENSITIES, build_tiny_config, build_tiny_model, randomize, sketching

from vcm.adapter import VCM, modulate
from vcm.backbone import Backbone
from vcm.checkpoint import LoadedModel
from vcm.config import SKETCH_KNOTS, AdapterConfig, ConfigError
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.sketch import Sketcher
from vcm.static_maps import SketchMaps
from vcm.volume import Volume

SHAPE = (16, 24, 16)


@pytest.fixture
def backbone() -> Backbone:
    return build_tiny_model().backbone


@pytest.fixture
def sketcher(backbone) -> Sketcher:
    return Sketcher(backbone, INTENSITIES)


def all_conditions(count: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    given = {name: torch.zeros(count, channels, *SHAPE) for name, channels in ALL_CHANNELS.items()}
    given["tumor"][:, 1, 4:8, 4:8, 4:8] = 1
    given["anatomy"][:, 2, 2:12, 2:20, 2:12] = 1
    given["anatomy"][given["tumor"].any(dim=1, keepdim=True).expand_as(given["anatomy"])] = 0
    for name in ("lowres", "t2", "flair"):
        given[name] = torch.rand(count, 1, *SHAPE, generator=generator)
    given["partial"][:, 0] = torch.rand(count, *SHAPE, generator=generator)
    given["partial"][:, 1, 3:9, 3:9, 3:9] = 1
    given["partial"][:, 0][given["partial"][:, 1] == 1] = 0
    return given


def draw(sketcher: Sketcher, *names: str) -> torch.Tensor:
    given = all_conditions()
    return sketcher.draw({name: (given[name], torch.ones(1, dtype=torch.bool)) for name in names})


def test_labels_are_painted_in_their_intensities_and_the_rest_is_the_mean_brain(sketcher, backbone):
    sketch = draw(sketcher, "anatomy", "tumor")
    assert sketch.shape == (1, 1, *SHAPE)
    assert sketch[0, 0, 5, 5, 5] == pytest.approx(0.6)
    assert sketch[0, 0, 3, 3, 3] == pytest.approx(0.8)
    mean = backbone.decode(torch.zeros(1, *backbone.latent_shape)).clamp(0, 1)
    assert torch.equal(sketch[0, 0, 13:], mean[0, 0, 13:])


def test_what_is_known_better_is_painted_over_what_is_known_less(sketcher):
    given = all_conditions()
    scan, slices = given["partial"][0, 0], given["lowres"][0, 0]
    sketch = draw(sketcher, "anatomy", "lowres", "tumor", "partial")[0, 0]
    assert torch.equal(sketch[13:], scan[13:])  # outside the hole
    assert sketch[5, 5, 5] == pytest.approx(0.6)  # the tumor in it
    assert sketch[3, 3, 3] == slices[3, 3, 3]  # the rest of the hole, tissue or not
    assert torch.equal(draw(sketcher, "lowres", "anatomy")[0, 0], slices)


def test_a_sample_knows_only_what_it_keeps(sketcher, backbone):
    given = all_conditions(3)
    keep = {
        "tumor": torch.tensor([True, False, False]),
        "t2": torch.tensor([False, True, False]),
        "anatomy": torch.tensor([False, False, False]),
    }
    given = {name: given[name] for name in keep}
    views = sketcher.look(given, keep)
    channels = backbone.latent_shape[0]
    assert views.shape == (3, 3 * channels, *backbone.latent_shape[1:])
    t1, t2, flair = views.split(channels, dim=1)
    assert not t1[1:].any()
    assert not t2[[0, 2]].any()
    assert not flair.any()
    alone = {"tumor": given["tumor"][:1]}
    torch.testing.assert_close(t1[:1], sketcher.look(alone)[:, :channels], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(t2[1:2], backbone.encode(given["t2"][1:2]), rtol=1e-4, atol=1e-5)


def test_a_new_vcm_with_sketches_is_one_without_and_learns_from_them(backbone):
    config = build_tiny_config(channels=ALL_CHANNELS)
    plain_config = replace(sketching(config.adapter), sketch=None)
    plain, sketchy = VCM(plain_config), VCM(sketching(config.adapter))
    randomize(plain, 0)
    missing, unknown = sketchy.load_state_dict(plain.state_dict(), strict=False)
    assert not unknown
    assert {name.split(".")[0] for name in missing} == {"sketch_maps"}
    sketchy.look_through(backbone)
    latent, epsilon = torch.randn(2, 1, *backbone.latent_shape)
    timesteps = torch.tensor([400])
    scale, shift = sketchy(latent, epsilon, sketchy.encode_condition(all_conditions()), timesteps)
    before = plain(latent, epsilon, plain.encode_condition(all_conditions()), timesteps)
    torch.testing.assert_close((scale, shift), before)
    (scale.square() + (shift - 1).square()).mean().backward()
    assert sketchy.sketch_maps is not None
    assert sketchy.sketch_maps.read_seen.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in backbone.parameters())


def test_the_backbone_is_no_part_of_it(backbone):
    vcm = VCM(sketching(build_tiny_config().adapter))
    vcm.look_through(backbone)
    assert not any("autoencoder" in name or "backbone" in name for name in vcm.state_dict())
    assert copy.deepcopy(vcm).sketcher is vcm.sketcher
    assert len(list(vcm.parameters())) == len(list(VCM(vcm.config).parameters()))


def test_without_a_backbone_it_says_what_is_missing():
    vcm = VCM(sketching(build_tiny_config().adapter))
    with pytest.raises(RuntimeError, match="look_through"):
        vcm.encode_condition({"tumor": torch.zeros(1, 3, *SHAPE)})
    with pytest.raises(ValueError, match="At least one condition"):
        vcm.encode_condition({})


def test_strength_holds_for_what_it_has_from_sketches(backbone):
    vcm = VCM(sketching(build_tiny_config().adapter))
    randomize(vcm, 0)
    vcm.look_through(backbone)
    given = {"tumor": all_conditions()["tumor"]}
    maps = vcm.encode_condition(given).split(vcm.config.feature_split, dim=1)[2]
    vcm.strengthen(1.5)
    assert maps.abs().sum() > 0
    torch.testing.assert_close(vcm.encode_condition(given).split(vcm.config.feature_split, dim=1)[2], 1.5 * maps)


def test_a_run_looks_once_at_each_view():
    model = build_tiny_model(channels=ALL_CHANNELS)
    config = replace(model.config, adapter=sketching(model.config.adapter))
    vcm = VCM(config.adapter)
    randomize(vcm, 0)
    pipeline = Pipeline(LoadedModel(config, model.backbone, vcm.eval(), hashes={}))
    seen = []
    model.backbone.autoencoder.encode = lambda image: (
        seen.append(len(image))
        or (
            torch.zeros(len(image), *config.latent_shape),
            torch.zeros(len(image), *config.latent_shape),
        )
    )
    maps = {name: given[0].argmax(0).numpy().astype("uint8") for name, given in all_conditions().items()}
    conditions = {name: Volume(maps[name], pipeline.grid.affine) for name in ("tumor", "anatomy")}
    scan = Volume(all_conditions()["t2"][0, 0].numpy(), pipeline.grid.affine)
    pipeline(GenerationRequest({**conditions, "t2": scan}, num_inference_steps=3))
    assert seen == [1, 1]


def test_configurations_from_before_are_read_and_written_as_they_were():
    config = build_tiny_config().adapter
    assert "sketch" not in config.to_dict()
    assert AdapterConfig.from_json(config.to_json()) == config
    sketchy = sketching(config)
    assert AdapterConfig.from_json(sketchy.to_json()) == sketchy


@pytest.mark.parametrize("sketch", [{"tumor": (0.1, 0.2)}, {"tumor": (0.1, 0.2, 1.5)}])
def test_intensities_that_cannot_be_are_refused(sketch):
    with pytest.raises(ConfigError, match="sketch"):
        replace(build_tiny_config().adapter, sketch=sketch)


def test_a_map_has_its_knot_to_itself_and_between_two_they_are_mixed():
    maps = torch.arange(len(SKETCH_KNOTS), dtype=torch.float32).reshape(1, -1, 1, 1, 1).expand(1, -1, 2, 2, 2)
    maps = maps.repeat_interleave(3, dim=1)  # of three channels
    for index, knot in enumerate(SKETCH_KNOTS):
        mixed = SketchMaps.mix(maps, torch.tensor([knot]))
        assert mixed.shape == (1, 3, 2, 2, 2)
        torch.testing.assert_close(mixed, torch.full_like(mixed, index))
    low, high = SKETCH_KNOTS[1:3]
    mixed = SketchMaps.mix(maps, torch.tensor([low + 0.25 * (high - low)]))
    torch.testing.assert_close(mixed, torch.full_like(mixed, 1.25))


def test_a_sketch_shifts_v_by_its_maps(backbone):
    vcm = VCM(sketching(build_tiny_config().adapter))
    vcm.look_through(backbone)
    torch.manual_seed(2)
    randomize(vcm.sketch_maps, 3)
    latent, epsilon = torch.randn(2, 1, *backbone.latent_shape)
    timesteps = torch.tensor([400])
    features = vcm.encode_condition({"tumor": all_conditions()["tumor"]})
    controlled = modulate(epsilon, *vcm(latent, epsilon, features, timesteps))  # all but the sketch is silent so far
    signal = backbone.alphas_cumprod[400].sqrt()
    maps = features.split(vcm.config.feature_split, dim=1)[2]
    shift = SketchMaps.mix(maps, timesteps / 999)
    torch.testing.assert_close((controlled - epsilon) / signal, shift, rtol=1e-3, atol=1e-4)
