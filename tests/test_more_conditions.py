"""A VCM that begins from the weights of one with other conditions."""

from dataclasses import replace

import pytest
import torch
from tiny import ALL_CHANNELS, build_tiny_config, build_tiny_model, drafting, randomize

from vcm.model.config import AdapterConfig
from vcm.model.vcm import VCM
from vcm.train.more_conditions import carry_over


def follow(*names: str) -> AdapterConfig:
    """A tiny VCM's configuration that has these conditions."""
    channels = {name: ALL_CHANNELS[name] for name in names}
    return replace(build_tiny_config().adapter, condition_channels=channels)


@pytest.mark.parametrize("before", [("tumor",), ("tumor", "anatomy"), ("anatomy", "t2")])
def test_what_the_earlier_one_followed_is_followed_as_before(before):
    earlier = VCM(follow(*before))
    randomize(earlier, 0)
    later = carry_over(earlier.state_dict(), earlier.config, follow(*ALL_CHANNELS))
    conditions = {name: torch.rand(1, ALL_CHANNELS[name], 16, 24, 16) for name in before}
    expected, found = earlier.encode_condition(conditions), later.encode_condition(conditions)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    channels = earlier.config.latent_channels
    latent, epsilon = torch.randn(2, 1, channels, *expected.shape[2:])
    timesteps = torch.tensor([400])
    for ours, theirs in zip(
        later(latent, epsilon, found, timesteps), earlier(latent, epsilon, expected, timesteps), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    new = next(name for name in ALL_CHANNELS if name not in before)
    given = conditions | {new: torch.rand(1, ALL_CHANNELS[new], 16, 24, 16)}
    assert not torch.allclose(later.encode_condition(given), expected)


def test_one_that_gains_a_draft_begins_as_the_one_without():
    model = build_tiny_model()
    earlier = VCM(replace(drafting(model.config.adapter), draft=None))
    randomize(earlier, 0)
    later = carry_over(earlier.state_dict(), earlier.config, drafting(model.config.adapter))
    later.look_through(model.backbone)
    conditions = {"tumor": (torch.rand(1, 3, 16, 24, 16) > 0.5).float()}
    latent, epsilon = torch.randn(2, 1, *model.backbone.latent_shape)
    outputs = [vcm(latent, epsilon, vcm.encode_condition(conditions), torch.tensor([600])) for vcm in (later, earlier)]
    torch.testing.assert_close(*outputs)


def test_another_width_is_refused():
    earlier = VCM(follow("tumor"))
    wider = replace(earlier.config, head_channels=2 * earlier.config.head_channels)
    with pytest.raises(ValueError, match="of its own sizes"):
        carry_over(earlier.state_dict(), earlier.config, wider)


def test_one_condition_alone_of_several_cannot_go_on():
    earlier = VCM(follow("tumor", "anatomy"))
    with pytest.raises(ValueError, match="cannot go on with one alone"):
        carry_over(earlier.state_dict(), earlier.config, follow("tumor"))
