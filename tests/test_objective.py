"""What a VCM's error weighs: lesions before the rest, and a small lesion not as little as its few cells."""

import pytest
import torch

from vcm.train.objective import Noised, measure_error


def noised_with(tumor_share: torch.Tensor, counted: torch.Tensor | None = None) -> Noised:
    count = len(tumor_share)
    latent = torch.zeros(count, 2, *tumor_share.shape[2:])
    return Noised(
        clean=latent,
        latent=latent,
        noise=latent,
        timesteps=torch.zeros(count, dtype=torch.long),
        signal=torch.ones(count, 1, 1, 1, 1),
        tumor_share=tumor_share,
        counted=torch.ones_like(tumor_share) if counted is None else counted,
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


def test_cells_that_do_not_count_change_neither_the_error_nor_the_weight_of_others():
    share, counted = block(8), 1 - block(4)
    wrong_where_it_does_not_count = 5 * torch.ones(1, 2, 8, 8, 8) * block(4)
    loss, figures = measure_error(wrong_where_it_does_not_count, noised_with(share, counted), 25.0)
    assert loss.item() == 0
    assert figures == {"inside": 0.0, "outside": 0.0}
