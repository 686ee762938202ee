"""What a VCM's error weighs: lesions before the rest, and a small lesion not as little as its few cells."""

import pytest
import torch

from tests.tiny import build_tiny_model
from vcm.train.objective import Noised, let_drift, measure_error

TINY = build_tiny_model()


def noised_with(tumor_share: torch.Tensor) -> Noised:
    count = len(tumor_share)
    latent = torch.zeros(count, 2, *tumor_share.shape[2:])
    return Noised(
        clean=latent,
        latent=latent,
        noise=latent,
        timesteps=torch.zeros(count, dtype=torch.long),
        signal=torch.ones(count, 1, 1, 1, 1),
        context=torch.zeros(count, 1, 4),
        tumor_share=tumor_share,
    )


def block(cells: int) -> torch.Tensor:
    """A lesion of so many whole cells in a latent of 512."""
    share = torch.zeros(512)
    share[:cells] = 1
    return share.reshape(1, 1, 8, 8, 8)


def loss_of_missing(share: torch.Tensor, missed: torch.Tensor, tumor_weight: float = 25.0) -> float:
    """The loss where all lesions of a batch are there, and only those of `missed` are off by one."""
    epsilon = missed.expand(-1, 2, -1, -1, -1)
    return measure_error(epsilon, noised_with(share), tumor_weight)[0].item()


def test_a_lesion_weighs_as_the_root_of_its_size():
    share = torch.cat([block(4), block(64)])
    small, large = torch.cat([block(4), block(0)]), torch.cat([block(0), block(64)])
    ratio = loss_of_missing(share, large) / loss_of_missing(share, small)
    assert ratio == pytest.approx(4, rel=0.2)  # 16 times the cells; what is no lesion weighs 1 beside them


def test_cells_of_a_lesion_weigh_more_than_others_and_alike_where_nothing_is_to_weigh_more():
    share = block(30)
    elsewhere = 1 - block(482)
    assert loss_of_missing(share, share) == pytest.approx(25 * loss_of_missing(share, elsewhere))
    assert loss_of_missing(share, share, 1.0) == pytest.approx(30 / 512)


def test_a_speck_below_a_cell_has_no_endless_weight_and_no_lesion_none():
    speck = 0.01 * block(1)
    assert loss_of_missing(speck, block(1)) < 0.01
    assert loss_of_missing(block(0), block(1)) == pytest.approx(1 / 512)


def test_the_figures_tell_the_error_inside_and_outside():
    _, figures = measure_error(3 * torch.ones(1, 2, 8, 8, 8) * block(8), noised_with(block(8)), 25.0)
    assert figures == {"inside": pytest.approx(9.0), "outside": pytest.approx(0.0)}


def drift_of(share: torch.Tensor, timestep: int) -> tuple[Noised, Noised]:
    """Pairs (B, 1, x, y, z) before and after a drift."""
    backbone = TINY.backbone
    random = torch.Generator().manual_seed(3)
    clean = torch.randn(len(share), *backbone.latent_shape, generator=random)
    noise = torch.randn(clean.shape, generator=random)
    timesteps = torch.full((len(share),), timestep)
    signal = backbone.alphas_cumprod[timesteps].sqrt().reshape(-1, 1, 1, 1, 1)
    latent = backbone.add_noise(clean, noise, timesteps)
    before = Noised(clean, latent, noise, timesteps, signal, torch.rand(len(share), 1, 4), share)
    return before, let_drift(before, backbone, random)


@pytest.mark.parametrize("timestep", [10, 400, 990])
def test_after_a_drift_the_noise_still_leads_to_the_whole_tumor(timestep):
    before, after = drift_of(torch.ones(8, 1, *TINY.backbone.latent_shape[1:]), timestep)
    changed = (after.latent != before.latent).flatten(1).any(1)
    assert 0 < changed.sum() < len(changed)  # some stay as they were
    torch.testing.assert_close(TINY.backbone.add_noise(after.clean, after.noise, after.timesteps), after.latent)
    torch.testing.assert_close(after.clean, before.clean)


def test_only_the_tumor_and_the_cells_around_it_drift():
    share = torch.zeros(8, 1, *TINY.backbone.latent_shape[1:])
    share[:4, :, 1, 2, 1] = 0.5  # the other four have no tumor
    before, after = drift_of(share, 400)
    moved = (after.latent - before.latent).abs().amax(1) > 0
    near = torch.zeros_like(moved)
    near[:, :3, 1:4, :3] = True
    assert moved[:4].any()
    assert not moved[4:].any()
    assert not (moved & ~near).any()


def test_the_drift_is_small_where_the_noise_is_small():
    share = torch.ones(8, 1, *TINY.backbone.latent_shape[1:])
    late, early = (
        (after.latent - before.latent).abs().max() / before.signal[0].item()
        for before, after in (drift_of(share, 1), drift_of(share, 600))
    )
    assert late < 0.2 * early


def test_a_drift_asks_the_prior_without_gradients():
    _, after = drift_of(torch.ones(4, 1, *TINY.backbone.latent_shape[1:]), 300)
    assert not after.latent.requires_grad
    assert not after.noise.requires_grad
