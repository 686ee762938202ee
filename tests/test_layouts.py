"""Which file is what, by names alone."""

from pathlib import Path

import pytest

from vcm.data.layouts import find_exams


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def roles(root: Path) -> dict[str, dict[str, str]]:
    exams, problems = find_exams(root)
    assert problems == []
    return {
        exam.name: {role: path.relative_to(root).as_posix() for role, path in sorted(exam.files.items())}
        for exam in exams
    }


@pytest.mark.parametrize(
    ("t1", "t2", "flair"), [("-t1c", "-t2w", "-t2f"), ("_t1ce", "_t2", "_flair"), ("-t1n", "-t2w", "-t2f")]
)
def test_brats_names_of_every_year_are_read(tmp_path: Path, t1: str, t2: str, flair: str) -> None:
    touch(tmp_path, *(f"case1/case1{part}.nii.gz" for part in (t1, t2, flair, t1[0] + "seg")))
    expected = {
        "flair": f"case1/case1{flair}.nii.gz",
        "t1": f"case1/case1{t1}.nii.gz",
        "t2": f"case1/case1{t2}.nii.gz",
        "tumor": f"case1/case1{t1[0]}seg.nii.gz",
    }
    assert roles(tmp_path) == {"case1": expected}


def test_the_t1_with_contrast_is_the_target_where_there_is_one(tmp_path: Path) -> None:
    touch(tmp_path, "a/a_t1.nii.gz", "a/a_t1ce.nii.gz", "b/b_t1.nii", "sub-1/anat/sub-1_T1w.nii.gz")
    touch(tmp_path, "sub-1/anat/sub-1_ce-gadolinium_T1w.nii.gz")
    exams, _ = find_exams(tmp_path)
    found = {exam.name: (exam.files["t1"].name, exam.enhanced) for exam in exams}
    assert found == {
        "a": ("a_t1ce.nii.gz", True),
        "b": ("b_t1.nii", False),
        "sub-1": ("sub-1_ce-gadolinium_T1w.nii.gz", True),
    }


def test_bids_visits_are_told_apart_and_masks_come_from_derivatives(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "sub-x/ses-1/anat/sub-x_ses-1_T1w.nii.gz",
        "sub-x/ses-2/anat/sub-x_ses-2_T1w.nii.gz",
        "sub-x/ses-1/dwi/sub-x_ses-1_dwi.nii.gz",
        "derivatives/seg/sub-x/ses-1/anat/sub-x_ses-1_label-lesion_mask.nii.gz",
        "derivatives/seg/sub-x/ses-1/anat/sub-x_ses-1_desc-brain_mask.nii.gz",
        "derivatives/seg/sub-x/ses-1/anat/sub-x_ses-1_desc-tissue_dseg.nii.gz",
        "derivatives/prep/sub-x/ses-1/anat/sub-x_ses-1_desc-preproc_T1w.nii.gz",
        ".git/sub-x_ses-1_T2w.nii.gz",
    )
    found = roles(tmp_path)
    assert list(found) == ["sub-x/ses-1", "sub-x/ses-2"]
    assert set(found["sub-x/ses-1"]) == {"t1", "tumor", "anatomy"}
    assert found["sub-x/ses-1"]["tumor"].endswith("label-lesion_mask.nii.gz")
    assert {exam.subject for exam in find_exams(tmp_path)[0]} == {"sub-x"}


def test_visits_of_a_brats_subject_stay_together(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{case}/{case}-t1c.nii.gz" for case in ("BraTS-GLI-00005-100", "BraTS-GLI-00005-101", "other")))
    assert [exam.subject for exam in find_exams(tmp_path)[0]] == ["BraTS-GLI-00005", "BraTS-GLI-00005", "other"]


def test_what_the_simulation_writes_is_read(tmp_path: Path) -> None:
    touch(tmp_path, *(f"sub-200000_{name}.nii.gz" for name in ("T1w", "T2w", "FLAIR", "tumor", "anatomy")))
    assert set(roles(tmp_path)["sub-200000"]) == {"t1", "t2", "flair", "tumor", "anatomy"}


def test_names_that_say_too_little_or_too_much_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "sub-1/anat/sub-1_run-1_T1w.nii.gz", "sub-1/anat/sub-1_run-2_T1w.nii.gz", "c/c-seg.nii.gz")
    _, problems = find_exams(tmp_path)
    assert [problem.file for problem in problems] == ["sub-1/anat/sub-1_run-2_T1w.nii.gz", "c"]
    assert "keep one of the two" in problems[0].what
    assert "no T1" in problems[1].what
    _, (nothing,) = find_exams(touch(tmp_path / "empty", "notes.txt"))
    assert "no subjects were found" in nothing.what
    assert "sub-<name>/anat" in nothing.what
