"""What the prior predicts is computed once, by number, and is what it would predict again."""

import numpy as np
import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from tiny import build_tiny_model

from vcm.train.pairs import Pairs
from vcm.train.prior_cache import NOISES, PriorCache, to_velocity


@pytest.fixture(scope="module")
def backbone():
    return build_tiny_model(GRID).backbone


@pytest.fixture(scope="module")
def pairs(backbone, tmp_path_factory) -> Pairs:
    cohort = CoarseCohorts(make_coarse_subjects(("t1",)))(tmp_path_factory.mktemp("cohort"), range(2), ("t1",))
    return Pairs(tmp_path_factory.mktemp("latents") / "some", cohort, backbone, "cpu", GRID.affine)


def test_an_entry_holds_what_the_prior_predicts_at_its_noised_latents(backbone, pairs, tmp_path):
    entry = PriorCache(tmp_path, backbone, pairs, 5)[4]
    clean, context, _ = pairs.targets([entry.index])
    noisy = backbone.add_noise(clean, entry.noise, entry.timesteps)
    epsilon = backbone.predict_epsilon(noisy, entry.timesteps, context.expand(NOISES, -1, -1))
    expected = to_velocity(epsilon, noisy, backbone.alphas_cumprod[entry.timesteps])
    torch.testing.assert_close(entry.velocity, expected, rtol=2e-3, atol=2e-3)  # kept in half precision
    assert entry.timesteps.tolist() == sorted(entry.timesteps.tolist())
    assert entry.timesteps[0] < 250 <= entry.timesteps[1]  # one from each part of the schedule


def test_every_subject_is_taken_once_a_pass(backbone, pairs, tmp_path):
    cache = PriorCache(tmp_path, backbone, pairs, 2 * len(pairs))
    assert sorted(cache[number].index for number in range(len(pairs))) == list(range(len(pairs)))
    assert not torch.equal(cache[0].noise, cache[len(pairs)].noise)


def test_a_cache_that_was_stopped_goes_on_and_a_whole_one_is_only_read(backbone, pairs, tmp_path, monkeypatch):
    whole = PriorCache(tmp_path / "whole", backbone, pairs, 4)
    predict, asked = PriorCache._predict, []

    def stop(cache: PriorCache, number: int) -> torch.Tensor:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(number)
        return predict(cache, number)

    monkeypatch.setattr("vcm.train.prior_cache._KEPT_EVERY", 1)
    monkeypatch.setattr(PriorCache, "_predict", stop)
    with pytest.raises(KeyboardInterrupt):
        PriorCache(tmp_path / "stopped", backbone, pairs, 4)
    asked.clear()
    stopped = PriorCache(tmp_path / "stopped", backbone, pairs, 4)
    assert asked == [2, 3]
    for number in range(4):
        np.testing.assert_array_equal(stopped[number].velocity, whole[number].velocity)
    PriorCache(tmp_path / "stopped", backbone, pairs, 4)
    assert asked == [2, 3]
