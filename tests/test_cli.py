"""The command line: what it writes, what it repeats, and one line for whatever a user can cause."""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vcm.cli import main
from vcm.outputs import CONTROLLED_FILE
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.volume import Volume
from vcm.weights.checkpoint import file_hash
from vcm.weights.share import save_vcm


@pytest.fixture
def run(capsys):
    """Run `vcm` with arguments; returns exit code, stdout, stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return caught.value.code, captured.out, captured.err

    return run


@pytest.fixture
def mask(tiny_config, tmp_path):
    labels = np.zeros(tiny_config.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    path = tmp_path / "secretpatient.nii.gz"
    Volume(labels, tiny_config.grid.affine).save(path)
    return path


def test_help_answers_without_importing_what_is_heavy():
    code = "import sys, vcm.cli.main; print([n for n in ('torch', 'numpy', 'nibabel', 'gradio') if n in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_help_answers_within_a_second():
    def measure():
        started = time.perf_counter()
        answer = subprocess.run([sys.executable, "-m", "vcm", "--help"], capture_output=True, text=True, check=True)
        assert "generate" in answer.stdout
        return time.perf_counter() - started

    assert min(measure() for _ in range(3)) < 1.0  # the best of three, because other work may share the machine


def test_generate_writes_what_the_pipeline_makes(run, mask, tiny_folder, tmp_path):
    code, out, err = run(
        "generate", "--condition", f"tumor={mask}", "--model", tiny_folder, "--seed", 7, "--steps", 3,
        "--guidance", 1.5, "--sampler", "ddim", "--control-end", 0.9, "--sex", "male", "--age", 70,
        "--ventricular-volume", 0.2, "--brain-volume", 0.7, "--device", "cpu", "--out", tmp_path / "a",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "controlled.nii.gz" in out
    request = GenerationRequest(
        {"tumor": Volume.load(mask, labels=True)}, guidance_scale=1.5, num_inference_steps=3, seed=7, sampler="ddim",
        control_end=0.9, sex="male", age=70, ventricular_volume=0.2, brain_volume=0.7,
    )  # fmt: skip
    expected = Pipeline.from_pretrained(tiny_folder, device="cpu")(request)
    for name, volume in [("controlled", expected.controlled), ("uncontrolled", expected.uncontrolled)]:
        np.testing.assert_array_equal(Volume.load(tmp_path / "a" / f"{name}.nii.gz").array, volume.array)


def test_a_recipe_gives_identical_voxels_without_the_mask(run, mask, tiny_folder, tmp_path):
    run("generate", "--condition", f"tumor={mask}", "--model", tiny_folder, "--steps", 3, "--out", tmp_path / "a")
    mask.unlink()
    recipe = tmp_path / "a" / "recipe.json"
    code, _, err = run("generate", "--recipe", recipe, "--model", tiny_folder, "--out", tmp_path / "b")
    assert (code, err) == (0, "")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def test_a_recipe_without_its_environment_is_refused_in_one_line(run, mask, tiny_folder, tmp_path):
    run("generate", "--condition", f"tumor={mask}", "--model", tiny_folder, "--steps", 1, "--out", tmp_path / "a")
    recipe = tmp_path / "a" / "recipe.json"
    for wrong in ({}, {"environment": ["cpu"]}):
        content = json.loads(recipe.read_text())
        del content["environment"]
        (tmp_path / "cut.json").write_text(json.dumps(content | wrong))
        code, _, err = run(
            "generate", "--recipe", tmp_path / "cut.json", "--model", tiny_folder, "--out", tmp_path / "b"
        )
        assert (code, err) == (2, "vcm: The recipe lacks its part environment.\n")


def test_a_mask_in_the_output_folder_is_not_replaced(run, mask, tiny_folder, tmp_path):
    own = mask.rename(mask.with_name("condition_tumor.nii.gz"))
    before = own.read_bytes()
    code, _, err = run("generate", "--condition", f"tumor={own}", "--model", tiny_folder, "--out", own.parent)
    assert code == 2
    assert "choose another output folder" in err
    assert own.read_bytes() == before


def test_nothing_written_or_said_holds_the_name_of_the_mask(run, mask, tiny_folder, tmp_path):
    code, out, _ = run("generate", "--condition", f"tumor={mask}", "--model", tiny_folder, "--out", tmp_path / "a")
    assert code == 0
    assert "secretpatient" not in out
    for file in (tmp_path / "a").iterdir():
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        assert b"secretpatient" not in content
        assert b"secretpatient" not in file.read_bytes()[:256]


def test_several_masks_make_a_folder_each(run, mask, tiny_folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for name in ("one", "two"):
        (masks / f"{name}_tumor.nii.gz").write_bytes(mask.read_bytes())
    code, _, err = run(
        "generate", "--condition", f"tumor={masks}/*_tumor.nii.gz", "--model", tiny_folder, "--steps", 1,
        "--no-compare", "--out", tmp_path / "batch",
    )  # fmt: skip
    assert (code, err) == (0, "")
    for name in ("one", "two"):
        files = sorted(file.name for file in (tmp_path / "batch" / name).iterdir())
        assert files == ["condition_tumor.nii.gz", "controlled.nii.gz", "recipe.json"]


def test_one_bad_mask_does_not_cost_the_others(run, mask, tiny_folder, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    (masks / "bad.nii.gz").write_bytes(b"no volume")
    (masks / "good.nii.gz").write_bytes(mask.read_bytes())
    code, _, err = run(
        "generate", "--condition", f"tumor={masks}", "--model", tiny_folder, "--steps", 1, "--out", tmp_path / "batch"
    )
    assert code == 2
    assert err.splitlines() == ["bad: This is not a NIfTI file; choose a NIfTI volume (.nii or .nii.gz).",
                                "vcm: 1 of 2 volumes could not be generated."]  # fmt: skip
    assert (tmp_path / "batch" / "good" / CONTROLLED_FILE).exists()


BAD = {
    "no command that exists": (["paint"], "No such command"),
    "no option that exists": (["generate", "--colour", "red", "--out", "{out}"], "No such option"),
    "no output folder": (["generate"], "Missing option '--out'"),
    "an output folder that is a file": (["generate", "--model", "{model}", "--out", "{file}"], "could not be made"),
    "no number of steps": (
        ["generate", "--steps", "abc", "--out", "{out}"],
        "num_inference_steps is 'abc'; it must be",
    ),
    "half a step": (["generate", "--steps", "2.5", "--out", "{out}"], "whole number from 1 to 1000"),
    "no steps": (["generate", "--steps", "0", "--out", "{out}"], "num_inference_steps is 0"),
    "negative steps": (["generate", "--steps", "-1", "--out", "{out}"], "num_inference_steps is -1"),
    "too many steps": (["generate", "--steps", "1001", "--out", "{out}"], "num_inference_steps is 1001"),
    "guidance that is no number": (["generate", "--guidance", "nan", "--out", "{out}"], "guidance_scale is nan"),
    "huge guidance": (["generate", "--guidance", "1e9", "--out", "{out}"], "from 0 to 10"),
    "a negative seed": (["generate", "--seed", "-1", "--out", "{out}"], "seed is -1"),
    "a seed of 65 bits": (["generate", "--seed", str(2**64), "--out", "{out}"], "from 0 to 4294967295"),
    "an age of 300": (["generate", "--age", "300", "--out", "{out}"], "from 44 to 82"),
    "an unknown solver": (["generate", "--sampler", "magic", "--out", "{out}"], "unipc, ddim, dpmpp"),
    "an unknown sex": (["generate", "--sex", "x", "--out", "{out}"], "female, male"),
    "a control that ends before it starts": (
        ["generate", "--control-start", "0.9", "--control-end", "0.1", "--out", "{out}"],
        "at most control_end",
    ),
    "an unknown condition": (["generate", "--condition", "bone={mask}", "--out", "{out}"], "tumor, anatomy"),
    "a condition of another model": (
        ["generate", "--condition", "semantic={mask}", "--model", "{model}", "--out", "{out}"],
        "not available in this model",
    ),
    "a mask that is not there": (
        ["generate", "--condition", "tumor=/no/where.nii", "--out", "{out}"],
        "No file was found",
    ),
    "a mask that is no volume": (["generate", "--condition", "tumor={file}", "--out", "{out}"], "empty"),
    "a model that is not there": (["generate", "--model", "/no/where", "--out", "{out}"], "no such model"),
    "a device that is not there": (
        ["generate", "--model", "{model}", "--device", "abacus", "--out", "{out}"],
        "no such device",
    ),
    "an unknown precision": (
        ["generate", "--model", "{model}", "--precision", "int4", "--out", "{out}"],
        "precision is 'int4'",
    ),
    "a fill without a scan": (
        ["generate", "--condition", "tumor={mask}", "--fill", "{mask}", "--out", "{out}"],
        "give the condition partial, too",
    ),
    "a recipe that is not there": (["generate", "--recipe", "/no/where.json", "--out", "{out}"], "no such recipe"),
    "a recipe that is none": (["generate", "--recipe", "{file}", "--out", "{out}"], "not a recipe"),
    "a recipe and another precision": (
        ["generate", "--recipe", "{file}", "--precision", "float32", "--out", "{out}"],
        "give --recipe without any of them",
    ),
    "a recipe and settings": (
        ["generate", "--recipe", "{file}", "--seed", "1", "--out", "{out}"],
        "without any of them",
    ),
    "the doctor without a model": (["doctor", "--model", "/no/where"], "no such model"),
    "no subjects": (["simulate", "--subjects", "0", "--out", "{out}"], "--subjects"),
}


@pytest.mark.parametrize(("arguments", "sentence"), BAD.values(), ids=BAD.keys())
def test_bad_input_gives_exit_code_2_and_one_line(run, arguments, sentence, mask, tiny_folder, tmp_path):
    (tmp_path / "file").touch()
    places = {"out": tmp_path / "out", "file": tmp_path / "file", "mask": mask, "model": tiny_folder}
    code, _, err = run(*(argument.format(**places) for argument in arguments))
    assert code == 2
    assert sentence in err
    assert len(err.splitlines()) == 1
    assert "Traceback" not in err
    assert "where" not in err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def scan(tiny_config, tmp_path):
    random = np.random.default_rng(1)
    path = tmp_path / "secretscan.nii.gz"
    affine = tiny_config.grid.affine.copy()
    affine[:3, 3] += 0.3
    Volume((random.random(tiny_config.grid.shape) * 900).astype(np.float32), affine).save(path)
    return path


def test_a_scan_with_a_region_to_make_up_comes_back_changed_only_there(run, mask, scan, image_folder, tmp_path):
    out = tmp_path / "a"
    code, told, err = run(
        "generate", "--condition", f"partial={scan}", "--fill", mask, "--condition", f"t2={scan}",
        "--model", image_folder, "--steps", 2, "--out", out,
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == [
        "condition_partial.nii.gz", "condition_t2.nii.gz", "controlled.nii.gz", "fill.nii.gz", "recipe.json",
        "uncontrolled.nii.gz",
    ]  # fmt: skip
    own, made = Volume.load(scan), Volume.load(out / "controlled.nii.gz")
    hole = Volume.load(out / "fill.nii.gz", labels=True).array > 0
    assert hole.any()
    np.testing.assert_array_equal(made.array[~hole], own.array[~hole])
    assert (made.array[hole] != own.array[hole]).any()
    assert "secret" not in told + (out / "recipe.json").read_text()


def test_a_recipe_finds_its_scans_beside_it_or_asks_for_them(run, mask, scan, image_folder, tmp_path):
    out, recipe = tmp_path / "a", tmp_path / "a" / "recipe.json"
    run("generate", "--condition", f"partial={scan}", "--condition", f"tumor={mask}", "--model", image_folder,
        "--steps", 2, "--out", out)  # fmt: skip
    again = ("generate", "--recipe", recipe, "--model", image_folder)
    assert run(*again, "--out", tmp_path / "b")[0] == 0
    first = (out / CONTROLLED_FILE).read_bytes()
    assert (tmp_path / "b" / CONTROLLED_FILE).read_bytes() == first

    (out / "condition_partial.nii.gz").unlink()
    code, _, err = run(*again, "--out", tmp_path / "c")
    assert code == 2
    assert err == (
        "vcm: The recipe needs the scan that it was made with, and none lies beside it: "
        "give --condition partial=FILE as well.\n"
    )
    assert run(*again, "--condition", f"partial={scan}", "--out", tmp_path / "c")[0] == 0
    assert (tmp_path / "c" / CONTROLLED_FILE).read_bytes() == first
    copied = tmp_path / "c" / "condition_partial.nii.gz"
    code, _, err = run(*again, "--condition", f"partial={copied}", "--out", tmp_path / "c")
    assert (code, "would be replaced by the result" in err) == (2, True)
    code, _, err = run(*again, "--condition", f"partial={mask}", "--out", tmp_path / "d")
    assert (code, err) == (2, "vcm: The volume given for partial is not the one that the recipe was made with.\n")
    code, _, err = run(*again, "--condition", f"tumor={mask}", "--out", tmp_path / "d")
    assert (code, err) == (
        2, "vcm: A recipe holds its conditions and settings: give only its scans, partial.\n"
    )  # fmt: skip


def test_scans_and_regions_are_paired_in_a_batch(run, scan, mask, image_folder, tmp_path):
    scans, regions = tmp_path / "scans", tmp_path / "regions"
    for folder, file, ending in ((scans, scan, "partial"), (regions, mask, "fill")):
        folder.mkdir()
        for case in ("one", "two"):
            shutil.copy(file, folder / f"{case}_{ending}.nii.gz")
    code, _, err = run("generate", "--condition", f"partial={scans}", "--fill", regions, "--model", image_folder,
                       "--steps", 1, "--no-compare", "--out", tmp_path / "a")  # fmt: skip
    assert (code, err) == (0, "")
    assert {path.parent.name for path in (tmp_path / "a").glob("*/fill.nii.gz")} == {"one", "two"}


def test_a_recipe_of_other_weights_is_refused(run, mask, tiny_folder, tmp_path):
    run("generate", "--condition", f"tumor={mask}", "--model", tiny_folder, "--steps", 1, "--out", tmp_path / "a")
    path = tmp_path / "a" / "recipe.json"
    recipe = json.loads(path.read_text())
    recipe["model"]["weights"]["vcm.safetensors"] = "0" * 64
    path.write_text(json.dumps(recipe))
    code, _, err = run("generate", "--recipe", path, "--model", tiny_folder, "--out", tmp_path / "b")
    assert code == 2
    assert "other weights" in err


def test_the_doctor_fails_where_no_step_was_stored(run, tiny_folder):
    code, out, err = run("doctor", "--model", tiny_folder, "--device", "cpu")
    assert code == 2
    assert "torch" in out
    assert err == "vcm: Not as it should be: verified step.\n"


def test_the_doctor_stores_a_step_and_finds_it_again(run, tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    assert run("doctor", "--model", folder, "--device", "cpu", "--record")[0] == 0
    code, out, err = run("doctor", "--model", folder, "--device", "cpu")
    assert (code, err) == (0, "")
    assert "as stored" in out


def test_the_module_runs_as_the_command_does():
    environment = {**os.environ, "COLUMNS": "80"}
    answers = [
        subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, env=environment).stdout
        for command in ([sys.executable, "-m", "vcm"], ["vcm"])
    ]
    assert answers[0] == answers[1]


def test_simulate_writes_every_contrast_of_every_subject(run, tmp_path):
    code, _, _ = run("simulate", "--subjects", 1, "--seed", 200_003, "--workers", 1, "--out", tmp_path)
    assert code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "participants.tsv",
        *(f"sub-200003_{suffix}.nii.gz" for suffix in ("FLAIR", "T1w", "T2w", "anatomy", "tumor")),
    ]


def test_evaluate_refuses_training_seeds(run, tiny_folder, tmp_path):
    code, _, err = run("evaluate", "--model", tiny_folder, "--seed", 99, "--out", tmp_path)
    assert code == 2
    assert "from 200000 on" in err


@pytest.mark.long
def test_a_benchmark_prints_counts_first_and_its_report_can_be_made(run, tiny_folder, tmp_path):
    out, assets, readme = tmp_path / "out", tmp_path / "assets", tmp_path / "README.md"
    code, told, _ = run(
        "benchmark", "--model", tiny_folder, "--device", "cpu", "--steps", 2, "--rounds", 1, "--masks", 0,
        "--noises", 0, "--out", out,
    )  # fmt: skip
    assert code == 0
    lines = told.splitlines()
    assert lines[0].startswith("published: calls of prior 400, adapter 200, encode 200, decode 2;")
    assert any(line.startswith("the same recipe again") and "goal at most 0.3 s" in line for line in lines)
    assert any(line.startswith("peak memory") for line in lines)

    readme.write_text("<!-- benchmark -->\n<!-- /benchmark -->\n")
    code, _, err = run("report", "--benchmark", out / "benchmark.json", "--pictures", assets)
    assert (code, err) == (2, "vcm: The benchmark measured no quality to draw: run it with masks or noises.\n")
    code, told, _ = run("report", "--benchmark", out / "benchmark.json", "--readme", readme)
    assert (code, told) == (0, "Wrote README.md.\n")
    assert "| Ours: UniPC, 2 steps |" in readme.read_text()
    code, _, err = run("report", "--benchmark", out / "benchmark.json", "--evaluation", readme)
    assert (code, err) == (2, "vcm: Give --evaluation, --benchmark or --study, one at a time.\n")


def test_train_refuses_a_stage_whose_ground_is_missing(run, tmp_path):
    code, _, err = run("train", "diffusion", "--out", tmp_path / "model")
    assert code == 2
    assert err == "vcm: The folder has no autoencoder yet: train that first.\n"


def test_a_training_that_diverges_ends_in_one_sentence(run, tmp_path, monkeypatch):
    def diverge(*_: object, **__: object) -> None:
        raise FloatingPointError("the loss is nan at step 4; the last saved state is unharmed")

    monkeypatch.setattr("vcm.train.stages.train", diverge)
    code, _, err = run("train", "segmenter", "--out", tmp_path / "model")
    assert code == 2
    assert err == "vcm: the loss is nan at step 4; the last saved state is unharmed\n"


def test_a_run_that_takes_long_is_asked_about_first(run, mask, tiny_folder, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr("vcm.weights.cost.brainldm_config", lambda: tiny_config)
    arguments = ("generate", "--condition", f"tumor={mask}", "--model", tiny_folder, "--steps", 2, "--device", "cpu")
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = run(*arguments, "--out", tmp_path / "a")
    assert code == 2
    assert err.startswith("vcm: On a CPU this model takes about 2 minutes for 2 steps")
    assert err.endswith("Give --yes to go on.\n")
    assert not (tmp_path / "a").exists()
    code, out, _ = run(*arguments, "--yes", "--out", tmp_path / "a")
    assert code == 0
    assert "On a CPU this model takes about 2 minutes" in out
    for answer, expected in (("n\n", 130), ("y\n", 0)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        assert run(*arguments, "--out", tmp_path / f"b{expected}")[0] == expected
    assert not (tmp_path / "b130").exists()


def test_missing_weights_are_told_before_what_a_run_would_take(run, mask, tmp_path, monkeypatch):
    monkeypatch.delenv("VCM_WEIGHTS", raising=False)
    code, _, err = run("generate", "--condition", f"tumor={mask}", "--model", "brainldm", "--out", tmp_path / "a")
    assert code == 2
    assert err.startswith("vcm: brainldm needs the VCM that its authors share by hand")


def test_a_condition_that_the_model_does_not_take_is_refused_before_any_question(run, mask, tmp_path, monkeypatch):
    (tmp_path / "released.pt").write_bytes(b"not opened")
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    weights = ("--vcm-weights", tmp_path / "released.pt", "--device", "cpu")
    arguments = ("generate", "--condition", f"tumor={mask}", "--model", "brainldm", *weights)
    code, _, err = run(*arguments, "--out", tmp_path / "a")
    assert code == 2
    assert err == "vcm: The condition 'tumor' is not available in this model: it takes semantic.\n"


def test_a_recipe_that_takes_long_is_asked_about_too(run, mask, tiny_folder, tiny_config, tmp_path, monkeypatch):
    run("generate", "--condition", f"tumor={mask}", "--model", tiny_folder, "--steps", 2, "--out", tmp_path / "a")
    monkeypatch.setattr("vcm.weights.cost.brainldm_config", lambda: tiny_config)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    repeat = ("generate", "--recipe", tmp_path / "a" / "recipe.json", "--model", tiny_folder, "--out", tmp_path / "b")
    assert "Give --yes" in run(*repeat)[2]
    assert run(*repeat, "--yes")[0] == 0


def test_the_published_model_without_its_vcm_says_how_to_get_it(run, tmp_path, monkeypatch):
    monkeypatch.delenv("VCM_WEIGHTS", raising=False)
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "cache"))
    code, _, err = run("doctor", "--model", "brainldm")
    assert code == 2
    assert "download vcm_wegith_complexSemantics.pt" in err
    assert err.count("\n") == 1


def test_a_vcm_from_elsewhere_is_taken_by_the_commands(run, mask, tiny_folder, tiny_model, tmp_path):
    shared = save_vcm(tiny_model.adapter, tmp_path / "shared")
    arguments = ("--model", tiny_folder, "--vcm-weights", shared, "--device", "cpu")
    out = tmp_path / "a"
    assert run("generate", "--condition", f"tumor={mask}", "--steps", 1, "--out", out, *arguments)[0] == 0
    weights = json.loads((out / "recipe.json").read_text())["model"]["weights"]
    assert weights["vcm.safetensors"] == file_hash(shared / "model.safetensors")
    code, told, _ = run("doctor", "--record", *arguments[:4])
    assert code == 0
    assert weights["vcm.safetensors"] in told
    (Path(tiny_folder) / "verified_step.json").unlink()
