"""Batches: every case once and whole, whatever was there, who made it, and when it was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vcm.cli import batch, main
from vcm.cli.batch import BatchError, Failed, Kept, Made, generate_batch, write_case
from vcm.cli.cases import find_cases, load_request
from vcm.outputs import CONTROLLED_FILE, RECIPE_FILE, OutputError
from vcm.pipeline import Pipeline
from vcm.volume import Volume, VolumeError

ROOT = Path(__file__).parent.parent
NAMES = ["ann", "bob", "cy", "dee", "eve"]
SETTINGS = {"num_inference_steps": 1, "compare": False}
PATIENCE = 180


@pytest.fixture(scope="module")
def masks(tiny_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    for number, name in enumerate(NAMES):
        labels = np.zeros(tiny_config.grid.shape, np.uint8)
        labels[3 : 8 + number, 5:12, 4:9] = 2
        Volume(labels, tiny_config.grid.affine).save(folder / f"{name}_tumor.nii.gz")
    return folder


@pytest.fixture
def run(capsys, masks, tiny_folder):
    """Run `vcm generate` over the masks; returns exit code, stdout, stderr."""

    def run(out, *more, masks=masks):
        arguments = ["generate", "--condition", f"tumor={masks}", "--model", tiny_folder, "--steps", 1, "--no-compare"]
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in (*arguments, "--device", "cpu", "--out", out, *more)])
        told = capsys.readouterr()
        return caught.value.code, told.out, told.err

    return run


@pytest.fixture(scope="module")
def pipeline(tiny_folder) -> Pipeline:
    return Pipeline.from_pretrained(tiny_folder, device="cpu")


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too, by its path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def batch_of(pipeline, masks, out, generate=None, **options):
    return list(generate_batch(pipeline, find_cases([f"tumor={masks}"]), SETTINGS, out, generate or run_job(pipeline),
                               **options))  # fmt: skip


def run_job(pipeline):
    def run(job):
        *_, outcome = pipeline.run(job)
        return pipeline.finish(job, outcome)

    return run


def test_a_batch_says_what_became_of_each_case_and_how_long_is_left(run, tmp_path):
    code, out, err = run(tmp_path / "a")
    assert (code, err) == (0, "")
    *cases, summary = out.splitlines()
    assert [line.split(" made in ")[0] for line in cases] == [
        f"{i} of 5: {name}" for i, name in enumerate(NAMES, start=1)
    ]
    assert all("left" in line for line in cases)
    assert summary == "5 made, 0 there already, 0 failed."


def test_the_command_given_again_makes_only_what_is_missing(run, tmp_path):
    run(tmp_path / "a")
    before = content(tmp_path / "a")
    times = {name: (tmp_path / "a" / name / RECIPE_FILE).stat().st_mtime_ns for name in NAMES}
    shutil.rmtree(tmp_path / "a" / "bob")
    code, out, _ = run(tmp_path / "a")
    assert code == 0
    assert "2 of 5: bob made in" in out
    assert out.splitlines()[-1] == "1 made, 4 there already, 0 failed."
    assert content(tmp_path / "a") == before
    after = {name: (tmp_path / "a" / name / RECIPE_FILE).stat().st_mtime_ns for name in NAMES}
    assert {name for name in NAMES if times[name] != after[name]} == {"bob"}


@pytest.mark.parametrize("lost", [CONTROLLED_FILE, RECIPE_FILE])
def test_a_case_that_lacks_a_file_is_made_again(run, tmp_path, lost):
    run(tmp_path / "a")
    before = content(tmp_path / "a")
    (tmp_path / "a" / "cy" / lost).unlink()
    (tmp_path / "a" / "cy" / ".0123.part").touch()  # as a process that is killed in mid-file leaves it
    assert run(tmp_path / "a")[1].splitlines()[-1] == "1 made, 4 there already, 0 failed."
    assert content(tmp_path / "a") == before


def test_the_shards_together_make_what_one_process_makes(run, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    monkeypatch.setenv("WORLD_SIZE", "3")
    told = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        code, out, err = run(tmp_path / "shared")
        assert (code, err) == (0, "")
        told += [line.split(" made in ")[0] for line in out.splitlines()]
    assert content(tmp_path / "shared") == content(tmp_path / "whole")
    assert told == [
        "[1/3] 1 of 2: ann", "[1/3] 2 of 2: dee", "[1/3] 2 made, 0 there already, 0 failed.",
        "[2/3] 1 of 2: bob", "[2/3] 2 of 2: eve", "[2/3] 2 made, 0 there already, 0 failed.",
        "[3/3] 1 of 1: cy", "[3/3] 1 made, 0 there already, 0 failed.",
    ]  # fmt: skip


def test_what_two_shards_began_another_number_of_shards_may_finish(run, tmp_path, monkeypatch):
    """A seed depends neither on the number of processes nor on what was there."""
    run(tmp_path / "whole")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    run(tmp_path / "shared")
    monkeypatch.undo()
    assert run(tmp_path / "shared")[1].splitlines()[-1] == "3 made, 2 there already, 0 failed."
    assert content(tmp_path / "shared") == content(tmp_path / "whole")


def test_one_volume_is_made_by_the_first_process_only(run, masks, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, is_made in (("1", False), ("0", True)):
        monkeypatch.setenv("RANK", rank)
        assert run(tmp_path / "a", masks=masks / "ann_tumor.nii.gz")[0] == 0
        assert (tmp_path / "a" / CONTROLLED_FILE).exists() == is_made


def test_a_recipe_is_repeated_by_the_first_process_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--recipe", str(tmp_path / "not-even-read.json"), "--out", str(tmp_path / "b")])
    assert caught.value.code == 0
    assert "nothing to do" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_batch_of_other_settings_is_refused_before_any_work(run, tmp_path):
    run(tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "eve")
    before = content(tmp_path / "a")
    code, out, err = run(tmp_path / "a", "--seed", 7, "--age", 70)
    assert (code, out) == (2, "")
    assert err == (
        "vcm: The output folder holds 4 of these 5 cases with other settings (seed, age): "
        "give another --out, or --overwrite to make them again.\n"
    )
    assert content(tmp_path / "a") == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda recipe: recipe["model"]["weights"].update({"vcm.safetensors": "0" * 64}), "weights"),
        (lambda recipe: recipe["environment"].update(precision="bfloat16"), "precision"),
        (lambda recipe: recipe["request"].update(secret=1), "version"),
        (lambda recipe: recipe["conditions"].update(anatomy=recipe["conditions"]["tumor"]), "anatomy"),
        (lambda recipe: recipe.pop("request"), "a recipe that cannot be read"),
        (lambda recipe: recipe.update(conditions=[]), "a recipe that cannot be read"),
    ],
)
def test_a_result_of_something_else_is_neither_kept_nor_overwritten(run, tmp_path, change, named):
    run(tmp_path / "a", "--precision", "float32")
    path = tmp_path / "a" / "ann" / RECIPE_FILE
    original = path.read_bytes()
    recipe = json.loads(original)
    change(recipe)
    path.write_text(json.dumps(recipe))
    code, _, err = run(tmp_path / "a", "--precision", "float32")
    assert code == 2
    assert f"1 of these 5 cases with other settings ({named})" in err
    assert json.loads(path.read_text()) == recipe
    code, out, err = run(tmp_path / "a", "--precision", "float32", "--overwrite")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "1 made, 4 there already, 0 failed."
    assert path.read_bytes() == original


def test_a_case_whose_mask_changed_is_refused_by_name_and_the_others_go_on(run, masks, tmp_path):
    masks = shutil.copytree(masks, tmp_path / "masks")
    run(tmp_path / "a", masks=masks)
    before = content(tmp_path / "a")
    shutil.copy(masks / "ann_tumor.nii.gz", masks / "bob_tumor.nii.gz")
    shutil.rmtree(tmp_path / "a" / "eve")
    code, out, err = run(tmp_path / "a", masks=masks)
    assert code == 2
    assert err.splitlines() == [
        "bob: The output folder has a result of this name with another tumor: "
        "give another --out, or --overwrite to make it again.",
        "vcm: 1 of 5 volumes could not be generated.",
    ]
    assert out.splitlines()[-1] == "1 made, 3 there already, 1 failed."
    assert content(tmp_path / "a") == before
    code, out, _ = run(tmp_path / "a", "--overwrite", masks=masks)
    assert (code, out.splitlines()[-1]) == (0, "1 made, 4 there already, 0 failed.")
    made = {name: (tmp_path / "a" / name / CONTROLLED_FILE).read_bytes() for name in ("ann", "bob")}
    assert made["ann"] == made["bob"]


def test_a_broken_mask_and_a_file_in_the_way_cost_their_cases_only(run, masks, tmp_path):
    masks = shutil.copytree(masks, tmp_path / "masks")
    (masks / "ann_tumor.nii.gz").write_bytes(b"no volume")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "cy").touch()
    code, out, err = run(tmp_path / "a", masks=masks)
    assert code == 2
    assert err.splitlines() == [
        "ann: This is not a NIfTI file; choose a NIfTI volume (.nii or .nii.gz).",
        "cy: A file is in the way of the case's folder: give another --out, or remove it.",
        "vcm: 2 of 5 volumes could not be generated.",
    ]
    assert out.splitlines()[-1] == "3 made, 0 there already, 2 failed."
    assert sorted(path.parent.name for path in (tmp_path / "a").glob(f"*/{CONTROLLED_FILE}")) == ["bob", "dee", "eve"]


def test_a_disk_that_refuses_ends_the_batch_and_the_command_given_again_goes_on(run, tmp_path, monkeypatch):
    run(tmp_path / "whole")
    save, calls = Volume.save, []

    def refuse(self, path):
        calls.append(path)
        if len(calls) == 4:  # the second file of the second case
            raise VolumeError("The volume could not be saved: No space left on device.")
        save(self, path)

    with monkeypatch.context() as full:
        full.setattr(Volume, "save", refuse)
        code, out, err = run(tmp_path / "a")
    assert (code, err) == (2, "vcm: The volume could not be saved: No space left on device.\n")
    assert out.splitlines()[-1] == "1 made, 0 there already, 0 failed, 4 left: give the command again to go on."
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["ann"]
    assert run(tmp_path / "a")[0] == 0
    assert content(tmp_path / "a") == content(tmp_path / "whole")


def test_what_is_in_a_folder_besides_is_left_alone(run, tmp_path):
    (tmp_path / "a" / "bob").mkdir(parents=True)
    (tmp_path / "a" / "bob" / "notes.txt").write_text("mine")
    assert run(tmp_path / "a")[0] == 0
    assert (tmp_path / "a" / "bob" / "notes.txt").read_text() == "mine"
    assert run(tmp_path / "a")[1].splitlines()[-1] == "0 made, 5 there already, 0 failed."


def test_what_a_killed_process_left_goes_once_its_case_is_there(pipeline, masks, tmp_path):
    mine = tmp_path / f".{batch._tag('bob')}-01234567.part"
    another = tmp_path / f".{batch._tag('someone')}-01234567.part"
    for folder in (mine, another):
        folder.mkdir()
        (folder / CONTROLLED_FILE).touch()
    ends = batch_of(pipeline, masks, tmp_path)
    assert [type(end) for end in ends] == [Made] * 5
    assert sorted(path.name for path in tmp_path.iterdir()) == [another.name, *NAMES]


def test_a_case_that_another_process_finished_meanwhile_is_kept(pipeline, masks, tmp_path, monkeypatch):
    """As when the command is given twice by mistake: neither fails, and nothing is there twice."""

    def refuse(*_):
        raise OutputError("The folder of a case could not be made: Directory not empty.")

    def overtaken(job):
        result = run_job(pipeline)(job)
        write_case(result, tmp_path / "ann")
        monkeypatch.setattr(batch, "write_case", refuse)
        return result

    cases = find_cases([f"tumor={masks}"])[:1]
    assert list(generate_batch(pipeline, cases, SETTINGS, tmp_path, overtaken)) == [Kept("ann")]
    assert [path.name for path in tmp_path.iterdir()] == ["ann"]


def test_a_folder_that_appears_while_a_case_is_written_is_not_touched(pipeline, masks, tmp_path, monkeypatch):
    result = pipeline(load_request(find_cases([f"tumor={masks}"])[0], SETTINGS))
    rename = os.rename

    def late(source, target):
        target.mkdir()
        (target / "file").write_text("of another")
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    with pytest.raises(OutputError, match="could not be made: Directory not empty"):
        write_case(result, tmp_path / "ann")
    assert content(tmp_path) == {"ann/file": b"of another"}


def test_a_case_that_fails_in_the_model_does_not_cost_the_others(pipeline, masks, tmp_path):
    run, calls = run_job(pipeline), []

    def fail(job):
        calls.append(job)
        if len(calls) == 2:
            raise BatchError("The volume came out with values that are not finite.")
        return run(job)

    ends = batch_of(pipeline, masks, tmp_path, fail)
    assert [type(end) for end in ends] == [Made, Failed, Made, Made, Made]


def start(script_or_module, *arguments, **variables):
    return subprocess.Popen(
        [sys.executable, *map(str, script_or_module), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"} | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(process):
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def arguments(masks, model, out, *more):
    given = ["generate", "--condition", f"tumor={masks}", "--model", model, "--steps", 1, "--no-compare"]
    return [*given, "--device", "cpu", "--out", out, *more]


@pytest.fixture(scope="module")
def undisturbed(masks, tiny_folder, tmp_path_factory) -> dict[str, bytes]:
    """What one process makes that nobody stops."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert ends(start(["-m", "vcm"], *arguments(masks, tiny_folder, out)))[0] == 0
    return content(out)


@pytest.mark.long
@pytest.mark.parametrize("moment", ["dead worker", "killed while saving", "killed before the folder appears"])
def test_a_batch_that_is_killed_is_finished_by_the_same_command(masks, tiny_folder, tmp_path, undisturbed, moment):
    out = tmp_path / "a"
    killed = start([ROOT / "tests" / "breaking.py", moment], *arguments(masks, tiny_folder, out))
    assert ends(killed)[0] == -signal.SIGKILL
    there = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert there == NAMES[:2]
    for name in there:
        assert (out / name / RECIPE_FILE).exists()
    assert bool(list(out.glob(".*.part"))) == (moment != "dead worker")
    code, told, err = ends(start(["-m", "vcm"], *arguments(masks, tiny_folder, out)))
    assert (code, err) == (0, "")
    assert told.splitlines()[-1] == "3 made, 2 there already, 0 failed."
    assert content(out) == undisturbed


@pytest.mark.long
def test_two_processes_at_once_make_all_and_only_the_cases(masks, tiny_folder, tmp_path, undisturbed):
    out = tmp_path / "a"
    variables = [{"RANK": str(rank), "WORLD_SIZE": "2"} for rank in range(2)]
    both = [start(["-m", "vcm"], *arguments(masks, tiny_folder, out), **each) for each in variables]
    assert [ends(process)[0] for process in both] == [0, 0]
    assert content(out) == undisturbed


@pytest.mark.long
def test_a_launcher_does_not_stop_the_others_for_a_broken_mask(masks, tiny_folder, tmp_path):
    """The first process is done at once, with a failure; the second has a thousand steps to go."""
    masks = shutil.copytree(masks, tmp_path / "masks")
    for name in ("cy", "dee", "eve"):
        (masks / f"{name}_tumor.nii.gz").unlink()
    (masks / "ann_tumor.nii.gz").write_bytes(b"no volume")
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--num_machines", 1,
                "--main_process_port", 0, "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "vcm"]  # fmt: skip
    slow = ("--steps", 1000, "--guidance", 0)
    code, told, err = ends(start(launcher, *arguments(masks, tiny_folder, tmp_path / "a", *slow)))
    assert code != 0
    assert "ann: This is not a NIfTI file" in err
    assert "[1/2] 0 made, 0 there already, 1 failed." in told
    assert "[2/2] 1 made, 0 there already, 0 failed." in told
    assert (tmp_path / "a" / "bob" / RECIPE_FILE).exists()
