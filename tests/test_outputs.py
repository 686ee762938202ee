"""A result's files: complete, and never mixed with those of an earlier result."""

import numpy as np
import pytest

from vcm.errors import VolumeError
from vcm.outputs import OutputError, make_folder, refuse_own_files, write_result
from vcm.pipeline import Pipeline
from vcm.recipe import load_recipe
from vcm.request import GenerationRequest
from vcm.volume import Volume


@pytest.fixture(scope="module")
def results(tiny_model):
    pipeline = Pipeline(tiny_model)
    labels = np.ones(pipeline.grid.shape, np.uint8)
    conditions = {name: Volume(labels, pipeline.grid.affine) for name in ("tumor", "anatomy")}
    compared = pipeline(GenerationRequest(conditions, num_inference_steps=1))
    alone = pipeline(GenerationRequest({"tumor": conditions["tumor"]}, num_inference_steps=1, compare=False))
    return compared, alone


def test_a_result_is_written_whole_and_reads_back_as_it_was(results, tmp_path):
    files = write_result(results[0], tmp_path / "new" / "folder")
    assert [file.name for file in files] == [
        "controlled.nii.gz",
        "uncontrolled.nii.gz",
        "condition_tumor.nii.gz",
        "condition_anatomy.nii.gz",
        "recipe.json",
    ]
    assert sorted(file.name for file in files) == sorted(file.name for file in files[0].parent.iterdir())
    again = Volume.load(files[0])
    np.testing.assert_array_equal(again.array, results[0].controlled.array)
    np.testing.assert_array_equal(again.affine, results[0].controlled.affine)
    assert load_recipe(files[-1]) == results[0].recipe


def test_files_of_an_earlier_result_do_not_stay_and_others_do(results, tmp_path):
    write_result(results[0], tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    write_result(results[1], tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "condition_tumor.nii.gz",
        "controlled.nii.gz",
        "notes.txt",
        "recipe.json",
    ]


def test_files_that_no_recipe_speaks_of_are_a_users_own(results, tmp_path):
    for name in ("fill.nii.gz", "condition_t2.nii.gz", "uncontrolled.nii.gz"):
        (tmp_path / name).write_text("mine")
    write_result(results[1], tmp_path)
    for name in ("fill.nii.gz", "condition_t2.nii.gz", "uncontrolled.nii.gz"):
        assert (tmp_path / name).read_text() == "mine"
    write_result(results[1], tmp_path)  # nor does that result's own recipe speak of them
    assert (tmp_path / "fill.nii.gz").read_text() == "mine"


def test_what_a_result_is_made_from_is_not_replaced_by_it(tmp_path):
    mask, fill = tmp_path / "condition_tumor.nii.gz", tmp_path / "fill.nii.gz"
    for files, region in (({"tumor": mask}, None), ({"partial": tmp_path / "scan.nii.gz"}, fill)):
        with pytest.raises(OutputError, match="choose another output folder"):
            refuse_own_files(files, region, tmp_path)
        refuse_own_files(files, region, tmp_path / "out")
    refuse_own_files({"tumor": tmp_path / "lesion.nii.gz"}, None, tmp_path)


def test_nor_does_a_result_remove_it_with_an_earlier_one(results, tmp_path):
    write_result(results[0], tmp_path)
    with pytest.raises(OutputError, match="choose another output folder"):
        refuse_own_files({"partial": tmp_path / "condition_anatomy.nii.gz"}, None, tmp_path)


def test_a_recipe_outlives_a_disk_that_is_full(results, tmp_path, monkeypatch):
    write_result(results[0], tmp_path)

    def refuse(*_):
        raise VolumeError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(Volume, "save", refuse)
        with pytest.raises(VolumeError):
            write_result(results[1], tmp_path)
    assert load_recipe(tmp_path / "recipe-before.json") == results[0].recipe
    write_result(results[1], tmp_path)
    assert load_recipe(tmp_path / "recipe.json") == results[1].recipe


def test_a_folder_that_cannot_be_made_gives_one_sentence_without_its_path(tmp_path):
    (tmp_path / "secret").touch()
    with pytest.raises(OutputError, match="could not be made") as caught:
        make_folder(tmp_path / "secret" / "folder")
    assert "secret" not in str(caught.value)
