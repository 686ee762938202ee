"""What is final of the embedded model's next edition, in checkpoints/next: whole, and as good as it is said to be."""

from pathlib import Path

import pytest
import torch

from vcm.data import simulate
from vcm.metrics import measure_band_energy, psnr
from vcm.model.autoencoder import Autoencoder
from vcm.train.recipe import load_recipe
from vcm.train.record import read_training
from vcm.weights.checkpoint import AUTOENCODER_FILE, CONFIG_FILE, fill, load_config, read_weights, verify_files

FOLDER = Path(__file__).parent.parent / "checkpoints" / "next"


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    verify_files(FOLDER, [CONFIG_FILE, AUTOENCODER_FILE])
    autoencoder = Autoencoder(**load_config(FOLDER).backbone.autoencoder)
    fill(autoencoder, read_weights(FOLDER / AUTOENCODER_FILE), AUTOENCODER_FILE)
    return autoencoder.eval()


@torch.no_grad()
def test_the_autoencoder_keeps_an_unseen_subject(autoencoder):
    image = simulate.simulate_subject(simulate.FIRST_TEST_SEED + 2, ("t1",)).images["t1"]
    mean, _ = autoencoder.encode(torch.from_numpy(image)[None, None])
    assert mean.shape == (1, 16, 20, 28, 20)
    restored = autoencoder.decode(mean)[0, 0].clamp(0, 1).numpy()
    assert psnr(restored, image) > 29.5  # dB
    assert measure_band_energy(restored) / measure_band_energy(image) > 0.75


def test_its_record_is_that_of_the_recipe_beside_it():
    recipe = load_recipe(FOLDER)
    assert recipe is not None
    (run,) = read_training(FOLDER)["autoencoder"]
    assert (run["steps"], run["subjects"]) == (recipe.autoencoder.loop.steps, recipe.autoencoder.subjects)
