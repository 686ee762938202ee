"""The recipe of a model: a file beside its weights, and the same stages whenever it is gone on with."""

from dataclasses import replace

import pytest

from vcm.train import stages
from vcm.train.recipe import MINI, RECIPE_FILE, load_recipe, save_recipe
from vcm.train.record import begin_run, read_training, record_run


def test_a_recipe_comes_back_from_its_file_as_it_went(tmp_path):
    assert load_recipe(tmp_path) is None
    changed = replace(MINI, vcm=replace(MINI.vcm, subjects=7, alone={"tumor": 0.5}))
    for recipe in (MINI, changed):
        save_recipe(tmp_path, recipe)
        assert load_recipe(tmp_path) == recipe


@pytest.mark.parametrize("content", ["", "[]", '{"vcm": {"subjects": "many"}}'])
def test_a_damaged_recipe_is_refused(tmp_path, content):
    (tmp_path / RECIPE_FILE).write_text(content)
    with pytest.raises(ValueError, match="cannot be used"):
        load_recipe(tmp_path)


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The stages that were trained, each of which leaves a record and an empty weight file."""
    made: list[str] = []

    def train(stage, folder, *, recipe, **options):
        if made and made[-1] == "stop":
            raise KeyboardInterrupt
        made.append(stage)
        begin_run(folder, stage, folder / "runs" / stage, from_weights=False)
        own = getattr(recipe, stage)
        record_run(folder, stage, folder / "runs" / stage, steps=own.loop.steps, subjects=own.subjects)
        (folder / stages._WEIGHTS[stage]).touch()

    monkeypatch.setattr(stages, "train", train)
    return made


def test_all_stages_are_trained_in_order_and_the_segmenter_only_where_asked(trained, tmp_path):
    stages.train_model(tmp_path / "a", samples=3, steps=5)
    assert trained == ["autoencoder", "diffusion", "vcm"]
    assert {runs[-1]["steps"] for runs in read_training(tmp_path / "a").values()} == {5}
    assert load_recipe(tmp_path / "a").diffusion.subjects == 3
    assert (tmp_path / "a" / "segmenter.safetensors").stat().st_size > 1_000_000  # that of the embedded model
    stages.train_model(tmp_path / "b", samples=3, steps=5, with_segmenter=True)
    assert trained[3:] == ["autoencoder", "diffusion", "vcm", "segmenter"]


def test_a_finished_stage_is_not_trained_again(trained, tmp_path):
    stages.train_model(tmp_path, samples=3, steps=5)
    trained.clear()
    stages.train_model(tmp_path, samples=3, steps=5)
    assert trained == []
    (tmp_path / "vcm.safetensors").unlink()
    stages.train_model(tmp_path, samples=3, steps=5)
    assert trained == ["vcm"]


def test_a_folder_of_another_recipe_or_of_none_is_refused(trained, tmp_path):
    stages.train_model(tmp_path, samples=3, steps=5)
    with pytest.raises(ValueError, match="another recipe"):
        stages.train_model(tmp_path, samples=4, steps=5)
    (tmp_path / RECIPE_FILE).unlink()
    (tmp_path / "config.json").touch()
    with pytest.raises(ValueError, match="made otherwise"):
        stages.train_model(tmp_path, samples=3, steps=5)
