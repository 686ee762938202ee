"""From arguments to cases: single files, folders, patterns, and what does not pair up."""

from pathlib import Path

import pytest

from vcm.cli.cases import Case, CaseError, find_cases


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("sub-1_tumor.nii.gz", "sub-2_tumor.nii.gz", "sub-1_anatomy.nii.gz", "sub-2_anatomy.nii.gz"):
        (tmp_path / name).touch()
    (tmp_path / "participants.tsv").touch()
    return tmp_path


def test_no_argument_is_one_case_without_conditions():
    assert find_cases([]) == [Case(None, {})]


def test_one_file_a_condition_is_one_case(folder):
    tumor, anatomy = folder / "sub-1_tumor.nii.gz", folder / "sub-1_anatomy.nii.gz"
    assert find_cases([f"tumor={tumor}", f"anatomy={anatomy}"]) == [Case(None, {"tumor": tumor, "anatomy": anatomy})]


def test_a_pattern_is_one_case_a_file_named_without_its_condition(folder):
    cases = find_cases([f"tumor={folder}/*_tumor.nii.gz"])
    assert [(case.name, case.files["tumor"].name) for case in cases] == [
        ("sub-1", "sub-1_tumor.nii.gz"),
        ("sub-2", "sub-2_tumor.nii.gz"),
    ]


def test_a_folder_is_all_its_volumes_and_nothing_else(tmp_path):
    for name in ("b.nii", "a.nii.gz", "notes.txt", ".hidden.nii.gz"):
        (tmp_path / name).touch()
    assert [case.name for case in find_cases([f"tumor={tmp_path}"])] == ["a", "b"]


def test_two_patterns_are_paired_by_case(folder):
    cases = find_cases([f"tumor={folder}/*_tumor.nii.gz", f"anatomy={folder}/*_anatomy.nii.gz"])
    assert [case.files["anatomy"].name for case in cases] == ["sub-1_anatomy.nii.gz", "sub-2_anatomy.nii.gz"]


def test_a_single_file_belongs_to_every_case(folder):
    anatomy = folder / "sub-1_anatomy.nii.gz"
    cases = find_cases([f"tumor={folder}/*_tumor.nii.gz", f"anatomy={anatomy}"])
    assert [case.files["anatomy"] for case in cases] == [anatomy, anatomy]


def test_files_that_are_named_alike_are_told_apart_by_their_folders(tmp_path):
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tumor.nii.gz").touch()
    assert [case.name for case in find_cases([f"tumor={tmp_path}/*/tumor.nii.gz"])] == ["ann", "bob"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["lesion.nii.gz"], "NAME=FILE"),
        (["=lesion.nii.gz"], "NAME=FILE"),
        (["tumor="], "NAME=FILE"),
        (["tumor=nowhere/secret.nii.gz"], "No file was found for the condition tumor"),
    ],
)
def test_an_argument_that_names_no_file_gives_one_sentence(arguments, sentence):
    with pytest.raises(CaseError, match=sentence) as caught:
        find_cases(arguments)
    assert "secret" not in str(caught.value)


def test_a_condition_given_twice_is_refused(folder):
    argument = f"tumor={folder / 'sub-1_tumor.nii.gz'}"
    with pytest.raises(CaseError, match="given twice"):
        find_cases([argument, argument])


def test_conditions_that_do_not_pair_up_are_refused(folder):
    (folder / "sub-2_anatomy.nii.gz").rename(folder / "sub-3_anatomy.nii.gz")
    with pytest.raises(CaseError, match="do not pair up"):
        find_cases([f"tumor={folder}/*_tumor.nii.gz", f"anatomy={folder}/*_anatomy.nii.gz"])


def test_files_that_cannot_be_told_apart_are_refused(tmp_path):
    for parent in ("a/x", "b/x"):
        (tmp_path / parent).mkdir(parents=True)
        (tmp_path / parent / "tumor.nii.gz").touch()
    with pytest.raises(CaseError, match="named alike"):
        find_cases([f"tumor={tmp_path}/*/x/tumor.nii.gz"])


def test_a_folder_or_pattern_of_one_file_is_a_batch_of_one(tmp_path):
    """So that a mask can be added later, and the results lie where they were."""
    for name in ("masks/ann_tumor.nii.gz", "brains/bob.nii.gz"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    mask, brain = tmp_path / "masks" / "ann_tumor.nii.gz", tmp_path / "brains" / "bob.nii.gz"
    expected = [Case("ann", {"tumor": mask, "anatomy": brain})]
    assert find_cases([f"tumor={mask.parent}", f"anatomy={brain}"]) == expected
    assert find_cases([f"tumor={mask.parent}/*.nii.gz", f"anatomy={brain}"]) == expected


def test_the_one_file_of_a_folder_is_not_given_to_all(tmp_path):
    """Masks that are drawn one after the other: until the others are there, the first one's is nobody else's."""
    for name in ("masks/ann.nii.gz", "scans/ann.nii.gz", "scans/bob.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(CaseError, match="do not pair up"):
        find_cases([f"tumor={tmp_path / 'masks'}", f"t2={tmp_path / 'scans'}"])
    alone = find_cases([f"tumor={tmp_path / 'masks' / 'ann.nii.gz'}", f"t2={tmp_path / 'scans'}"])
    assert [case.name for case in alone] == ["ann", "bob"]


def test_a_case_keeps_its_name_when_a_second_one_joins_it(tmp_path):
    for name in ("ann", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tumor.nii.gz").touch()
        found = find_cases([f"tumor={tmp_path}/*/tumor.nii.gz"])
        assert found[0] == Case("ann", {"tumor": tmp_path / "ann" / "tumor.nii.gz"})


def test_a_file_that_is_named_like_its_condition_keeps_that_name(tmp_path):
    for name in ("_tumor.nii.gz", "a.nii.gz"):
        (tmp_path / name).touch()
    assert [case.name for case in find_cases([f"tumor={tmp_path}"])] == ["_tumor", "a"]
