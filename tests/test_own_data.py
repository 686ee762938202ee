"""Subjects of one's own: checked file by file, placed, split, and trained on to a volume."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from own_subjects import simulate_subjects, write_bids, write_brats
from tiny import ALL_CHANNELS, build_tiny_config, build_tiny_model

from vcm.cli import main
from vcm.data import own_data, simulate
from vcm.data.layouts import DataProblemsError, find_exams
from vcm.data.own_data import check_data, choose_conditions, load_own_cohort
from vcm.model.config import Grid, ModelConfig
from vcm.registration.register import Registration
from vcm.train import stages
from vcm.train.record import read_training
from vcm.volume import Volume
from vcm.weights.checkpoint import load_model, save_model

GRID = Grid((24, 32, 24), simulate.AFFINE @ np.diag([3.5, 3.5, 3.5, 1]))
"""The embedded model's field of view, coarse."""


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return build_tiny_config(GRID)


@pytest.fixture(scope="module")
def subjects() -> list[dict[str, Volume]]:
    return simulate_subjects()


@pytest.fixture(scope="module")
def bids(subjects: list[dict[str, Volume]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bids(tmp_path_factory.mktemp("own") / "bids", subjects)


@pytest.fixture
def in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every scan lies in template space, so that noise will do for one."""
    monkeypatch.setattr(own_data, "place_in_template", lambda scan: Registration(np.eye(4), 1.0))


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def write_noise(root: Path, count: int, **suffixes: int) -> Path:
    """Small visits whose T1 is noise and whose label maps hold one label."""
    affine = np.diag([9.0, 9, 9, 1])
    affine[:3, 3] = -70, -100, -60
    for index in range(1, count + 1):
        folder = root / f"sub-{index:02d}" / "anat"
        folder.mkdir(parents=True)
        noise = np.random.default_rng(index).random((16, 20, 16)).astype(np.float32) + 0.1
        Volume(noise, affine).save(folder / f"sub-{index:02d}_T1w.nii.gz")
        for suffix, label in suffixes.items():
            labels = np.zeros(noise.shape, np.uint8)
            labels[5:9, 6:10, 5:9] = label
            Volume(labels, affine).save(folder / f"sub-{index:02d}_{suffix}.nii.gz")
    return root


def test_both_layouts_give_the_same_cohort_on_the_models_grid(
    subjects: list[dict[str, Volume]], bids: Path, config: ModelConfig, tmp_path: Path
) -> None:
    brats = write_brats(tmp_path / "brats", subjects)
    first = load_own_cohort(bids, config, tmp_path / "cache", ["tumor", "t2"])
    second = load_own_cohort(brats, config, tmp_path / "cache", ["tumor", "t2"])
    assert len(first.training) == 2
    assert len(first.held_out) == 1
    assert first.key != second.key
    made = []
    for cohort in (first, second):
        parts = (cohort.training, cohort.held_out)
        images = [part.images["t1"][index] for part in parts for index in range(len(part))]
        tumors = [part.tumor[index] for part in parts for index in range(len(part))]
        # The split goes by names, which differ: the subjects are found by their tumors.
        made.append(sorted(zip(tumors, images, strict=True), key=lambda pair: int(pair[0].sum())))
    for (tumor, image), (other_tumor, other_image) in zip(*made, strict=True):
        np.testing.assert_array_equal(tumor, other_tumor)
        np.testing.assert_array_equal(image, other_image)
        assert tumor.any()
        assert 0.7 < image.max() <= 1.0  # averaged over 7 mm
    assert set(first.training.images) == {"t1", "t2"}
    stamp = next((tmp_path / "cache").glob(f"*{first.key}*/t1.npy")).stat().st_mtime_ns
    again = load_own_cohort(bids, config, tmp_path / "cache", ["tumor", "t2"])
    assert next((tmp_path / "cache").glob(f"*{again.key}*/t1.npy")).stat().st_mtime_ns == stamp


def test_a_subject_comes_to_where_it_was_simulated(bids: Path, config: ModelConfig, tmp_path: Path) -> None:
    """LAS, oblique or out of template space: the brain lies where the model expects it."""
    cohort = load_own_cohort(bids, config, tmp_path)
    assert cohort.conditions == ["tumor", "anatomy"]
    middle = (np.array(GRID.shape) - 1) / 2
    for part in (cohort.training, cohort.held_out):
        for anatomy in part.anatomy:
            np.testing.assert_allclose(np.argwhere(anatomy > 0).mean(axis=0), middle, atol=2.5)  # voxels of 7 mm
            ventricles = np.argwhere(anatomy == simulate.VENTRICLES).mean(axis=0)
            np.testing.assert_allclose(ventricles, middle, atol=3)
    placed = json.loads(next(tmp_path.glob("own-*/placed.json")).read_text())["transforms"]
    assert [placed[name] == np.eye(4).tolist() for name in sorted(placed)] == [True, True, False]


def test_the_command_checks_then_trains_on_ones_own_subjects_then_generates(
    bids: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_tiny_model(GRID)
    save_model(tmp_path / "tiny", model.config, model.backbone, model.adapter)
    assert run("train", "vcm", "--data", bids, "--check") == 0
    told = capsys.readouterr().out
    assert "3 visits are sound" in told
    assert "sub-03" in told
    assert "moved" in told

    out = tmp_path / "new"
    arguments = ["train", "vcm", "--data", bids, "--model", tmp_path / "tiny", "--out", out]
    assert run(*arguments, "--from-weights", "--steps", "2") == 0
    new = load_model(out)
    assert new.adapter.modalities == ("tumor", "anatomy")
    weight = "condition_encoders.tumor.conv_in.weight"
    apart = (new.adapter.state_dict()[weight] - model.adapter.state_dict()[weight]).abs().max()
    assert 0 < float(apart) < 0.01  # two steps of the warm-up from where it began
    record = {"from_weights": True, "own_data": True, "steps": 2, "subjects": 2}
    (entry,) = read_training(out)["vcm"]
    assert entry == record
    log = [json.loads(line) for line in (out / "runs" / "vcm" / "log.jsonl").read_text().splitlines()]
    assert np.isfinite(log[-1]["validation"]["loss"])
    assert (out / "runs" / "vcm" / "validation-000002.png").stat().st_size > 1000
    assert list((out / "runs" / "vcm").glob("events.out.tfevents.*"))

    assert run(*arguments, "--steps", "3", "--resume") == 0
    mask = next(bids.glob("derivatives/masks/sub-01/anat/sub-01_dseg.nii.gz"))
    generated = tmp_path / "generated"
    assert run("generate", "--model", out, "--condition", f"tumor={mask}", "--steps", "2", "--out", generated) == 0
    assert Volume.load(generated / "controlled.nii.gz").array.shape == GRID.shape


def test_every_problem_is_named_with_its_file_and_nothing_is_trained(
    in_place: None, config: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_noise(tmp_path / "data", 11, dseg=2)

    def file(index: int, suffix: str) -> Path:
        return data / f"sub-{index:02d}" / "anat" / f"sub-{index:02d}_{suffix}.nii.gz"

    def rewrite(index: int, suffix: str, array: np.ndarray, shift_mm: float = 0.0) -> None:
        affine = Volume.load(file(1, "dseg")).affine
        affine[0, 3] += shift_mm
        Volume(array, affine).save(file(index, suffix))

    labels = Volume.load(file(1, "dseg"), labels=True).array
    noise = Volume.load(file(2, "T1w")).array
    file(1, "T1w").write_bytes(file(1, "T1w").read_bytes()[:500])
    rewrite(2, "dseg", labels // 2 * 7)
    rewrite(3, "dseg", labels, shift_mm=20)
    file(4, "T1w").unlink()
    rewrite(5, "FLAIR", labels)
    shutil.copy(file(6, "T1w"), file(6, "run-2_T1w"))
    rewrite(7, "dseg", labels[:, :, :12], shift_mm=110)
    rewrite(8, "T2w", noise, shift_mm=900)
    rewrite(9, "T1w", np.full_like(noise, 3.5))
    rewrite(10, "dseg", labels // 2 * 4)
    rewrite(11, "dseg", labels // 2 * 3)
    rewrite(11, "desc-tissue_dseg", labels * 0)
    (data / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\told\tF\nsub-02\t50\tX\n")
    expected = {
        "sub-01/anat/sub-01_T1w.nii.gz": "damaged",
        "sub-02/anat/sub-02_dseg.nii.gz": "holds the value 7; its labels are 0 for background, 1 necrotic core",
        "sub-03/anat/sub-03_dseg.nii.gz": "lies up to 20.0 mm off it",
        "sub-04/anat": "no T1",
        "sub-05/anat/sub-05_FLAIR.nii.gz": "as a label map does",
        "sub-06/anat/sub-06_run-2_T1w.nii.gz": "keep one of the two",
        "sub-07/anat/sub-07_dseg.nii.gz": "lie off the field of view of the T1",
        "sub-08/anat/sub-08_T2w.nii.gz": "does not overlap with the T1",
        "sub-09/anat/sub-09_T1w.nii.gz": "every voxel of this volume holds the same value",
        "sub-10/anat/sub-10_dseg.nii.gz": "holds label 4, while 1 other maps hold 3",
        "sub-11/anat/sub-11_desc-tissue_dseg.nii.gz": "is empty",
        "participants.tsv": "line 2: age is 'old'; a number or n/a is expected",
    }
    rewrite(11, "desc-tissue_dseg", labels * 0)
    _, problems = check_data(data)
    told = {problem.file: problem.what for problem in problems if "sex" not in problem.what}
    assert set(told) == set(expected) - {"sub-10/anat/sub-10_dseg.nii.gz"}  # its opposite is not sound
    file(11, "desc-tissue_dseg").unlink()
    _, problems = check_data(data)
    told |= {problem.file: problem.what for problem in problems if "sex" not in problem.what}
    for name, what in expected.items():
        assert what in told[name], name
    assert any("line 3: sex is 'X'" in problem.what for problem in problems)

    with pytest.raises(DataProblemsError) as caught:
        load_own_cohort(data, config, tmp_path / "cache", ["tumor"])
    assert len(caught.value.problems) == len(problems)
    assert str(tmp_path) not in str(caught.value)
    assert not (tmp_path / "cache").exists()
    capsys.readouterr()
    assert run("train", "vcm", "--data", data, "--condition", "tumor", "--out", tmp_path / "out") == 2
    lines = capsys.readouterr().err.splitlines()
    assert sum(": " in line for line in lines) >= len(problems)
    assert lines[-1] == f"vcm: Problems in the data: {len(problems)}; nothing was trained."
    assert str(tmp_path) not in "\n".join(lines)
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_condition_that_the_data_do_not_show_is_refused_in_one_sentence(tmp_path: Path) -> None:
    exams, _ = find_exams(write_noise(tmp_path, 3, dseg=2))
    with pytest.raises(
        ValueError, match="hold no anatomy files, so a VCM cannot learn to follow them; they show tumor"
    ):
        choose_conditions(exams, ("tumor", "anatomy"), ["tumor", "anatomy"])
    assert choose_conditions(exams, ("tumor", "anatomy")) == (["tumor"], [])
    assert choose_conditions(exams, ("tumor",), ["partial", "lowres"]) == (["partial", "lowres"], [])
    with pytest.raises(ValueError, match="show nothing that this model follows"):
        choose_conditions(exams, ("anatomy",))
    next(tmp_path.rglob("sub-02_dseg.nii.gz")).unlink()
    _, (lacking,) = choose_conditions(find_exams(tmp_path)[0], ("tumor",))
    assert str(lacking) == "sub-02/anat: there is no tumor, which 2 of 3 visits have; add it, or take the visit out."


def test_covariates_come_from_the_table_and_are_neutral_where_it_says_nothing(
    in_place: None, config: ModelConfig, tmp_path: Path
) -> None:
    data = write_noise(tmp_path / "data", 4, dseg=2)
    rows = ["participant_id\tage\tsex\tbrain_ml", "sub-01\t63\tM\t1300", "sub-02\t99\tn/a\t", "03\t44\tfemale\tn/a"]
    (data / "participants.tsv").write_text("\n".join(rows) + "\n")
    cohort = load_own_cohort(data, config, tmp_path / "cache")
    placed = json.loads(next((tmp_path / "cache").glob("own-*/placed.json")).read_text())
    context = dict(zip(placed["order"], [*cohort.training.context, *cohort.held_out.context], strict=True))
    np.testing.assert_allclose(context["sub-01"], [1, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(context["sub-02"], [0.5, 1, 0.5, 0.5])
    np.testing.assert_allclose(context["sub-03"], [0, 0, 0.5, 0.5])
    np.testing.assert_allclose(context["sub-04"], [0.5] * 4)


def test_a_table_is_read_as_it_stands_and_judged_though_the_scans_are_placed_already(
    in_place: None, config: ModelConfig, tmp_path: Path
) -> None:
    data = write_noise(tmp_path / "data", 3, dseg=2)
    table = data / "participants.tsv"
    rows = ["participant_id\tage\tnote", '01\t63\t"scanned twice', "02\t82\t", '03\t44\t3"']
    table.write_text("\n".join(rows) + "\n")
    cohort = load_own_cohort(data, config, tmp_path / "cache")
    ages = sorted(row[1] for row in (*cohort.training.context, *cohort.held_out.context))
    np.testing.assert_allclose(ages, [0, 0.5, 1])
    table.write_text(table.read_text().replace("82", "80+"))
    with pytest.raises(DataProblemsError) as caught:
        load_own_cohort(data, config, tmp_path / "cache")
    assert [str(each) for each in caught.value.problems] == [
        "participants.tsv: line 3: age is '80+'; a number or n/a is expected."
    ]


def test_a_changed_file_is_placed_again(in_place: None, config: ModelConfig, tmp_path: Path) -> None:
    data = write_noise(tmp_path / "data", 3, dseg=2)
    first = load_own_cohort(data, config, tmp_path / "cache")
    path = next(data.rglob("sub-01_dseg.nii.gz"))
    volume = Volume.load(path, labels=True)
    Volume(np.roll(volume.array, 1, axis=1), volume.affine).save(path)
    assert load_own_cohort(data, config, tmp_path / "cache").key != first.key


def test_a_vcm_learns_from_scans_alone(in_place: None, tmp_path: Path) -> None:
    """No label map at all: holes are then made in the template's brain."""
    model = build_tiny_model(GRID, ALL_CHANNELS)
    save_model(tmp_path / "tiny", model.config, model.backbone, model.adapter)
    data = write_noise(tmp_path / "data", 2)
    stages.train("vcm", tmp_path / "out", model=tmp_path / "tiny", data=data, steps=2)
    new = load_model(tmp_path / "out").adapter
    assert new.modalities == ("partial", "lowres")
    assert all(parameter.isfinite().all() for parameter in new.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "segmenter", "--data", "here", "--out", "out"], "Only a VCM is trained on data of your own"),
        (["train", "vcm", "--data", "here", "--out", "out", "--samples", "3"], "of your own data all are taken"),
        (["train", "vcm", "--data", "nowhere", "--out", "out"], "There is no such data folder"),
        (["train", "vcm", "--data", "here", "--out", "out"], "no subjects were found"),
        (["train", "vcm", "--check"], "--check needs --data"),
        (["train", "vcm", "--data", "here"], "Missing option '--out'"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err
