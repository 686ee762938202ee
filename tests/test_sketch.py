"""Sketches: what is painted where, who sees it, and that nobody else notices."""

import pytest
import torch
from tiny import INTENSITIES, all_conditions, build_tiny_model

from vcm.model.backbone import Backbone
from vcm.model.sketch import Sketcher

SHAPE = (16, 24, 16)


@pytest.fixture
def backbone() -> Backbone:
    return build_tiny_model().backbone


@pytest.fixture
def sketcher(backbone) -> Sketcher:
    return Sketcher(backbone, INTENSITIES)


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
