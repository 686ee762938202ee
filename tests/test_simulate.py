"""The simulated cohort: a subject is a function of its seed, and looks, measures and lies as it is said to."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from vcm.data import simulate
from vcm.data.simulate import Subject, simulate_subject, simulate_subjects, write_cohort
from vcm.volume import Volume

SEED = 200_002  # has one large lesion with core, rim and edema, on one side


@pytest.fixture(scope="module")
def subject() -> Subject:
    return simulate_subject(SEED)


@pytest.fixture(scope="module")
def tumor_free_twin() -> Subject:
    return simulate_subject(SEED, ("t1",), with_tumor=False)


@pytest.fixture(scope="module")
def anatomies() -> list[Subject]:
    """Forty subjects without images, which are cheap."""
    return list(simulate_subjects(range(40), contrasts=(), with_tumor=False, workers=1))


def assert_same_arrays(first: Subject, second: Subject) -> None:
    assert first.images.keys() == second.images.keys()
    for name, image in first.images.items():
        np.testing.assert_array_equal(image, second.images[name], err_msg=name)
    for name in ("tumor", "anatomy", "anatomy_before"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def test_the_same_seed_gives_identical_arrays_whatever_was_drawn_in_between(subject):
    torch.rand(7)
    np.random.default_rng(0)
    simulate_subject(SEED + 1, contrasts=())
    again = simulate_subject(SEED)
    assert_same_arrays(subject, again)
    assert subject.covariates == again.covariates


def test_another_seed_gives_another_subject(subject):
    other = simulate_subject(SEED + 1, ("t1",))
    assert not np.array_equal(other.anatomy_before, subject.anatomy_before)
    assert not np.array_equal(other.images["t1"], subject.images["t1"])
    assert other.covariates != subject.covariates


def test_leaving_a_contrast_out_changes_no_other(subject):
    alone = simulate_subject(SEED, ("flair",))
    assert set(alone.images) == {"flair"}
    np.testing.assert_array_equal(alone.images["flair"], subject.images["flair"])
    np.testing.assert_array_equal(alone.tumor, subject.tumor)
    np.testing.assert_array_equal(alone.anatomy, subject.anatomy)


def test_subjects_made_in_parallel_are_those_made_alone_and_in_order(subject):
    parallel = list(simulate_subjects([SEED, SEED + 1], workers=2))
    assert [made.seed for made in parallel] == [SEED, SEED + 1]
    assert_same_arrays(parallel[0], subject)
    # The order of a sum depends on how many threads share it.
    assert parallel[0].covariates.context == pytest.approx(subject.covariates.context, rel=1e-6)


def test_the_tumor_free_twin_has_the_anatomy_from_before_the_tumor(subject, tumor_free_twin):
    assert not tumor_free_twin.tumor.any()
    np.testing.assert_array_equal(tumor_free_twin.anatomy_before, subject.anatomy_before)
    np.testing.assert_array_equal(tumor_free_twin.anatomy, tumor_free_twin.anatomy_before)
    assert tumor_free_twin.covariates == subject.covariates


def test_a_tumor_pushes_tissue_away_and_leaves_what_is_far_from_it(subject):
    moved = (subject.anatomy != subject.anatomy_before) & (subject.tumor == 0)
    assert moved.any()
    distance_mm = simulate.SPACING_MM * ndimage.distance_transform_edt(subject.tumor == 0)
    brain = subject.anatomy_before > 0
    near, far = brain & (distance_mm > 0) & (distance_mm < 10), brain & (distance_mm > 60)
    assert moved[near].mean() > 10 * moved[far].mean()
    assert moved[far].mean() < 0.02


@pytest.mark.parametrize(("seed", "labels"), [(38, {1}), (29, {2}), (18, {3}), (7, {1, 2, 3})])
def test_some_lesions_are_of_one_part_since_that_is_what_people_draw_first(seed, labels):
    assert set(np.unique(simulate_subject(seed, contrasts=()).tumor)) - {0} == labels


def test_arrays_have_the_types_and_ranges_that_are_promised(subject):
    assert list(subject.images) == ["t1", "t2", "flair"]
    for image in subject.images.values():
        assert image.dtype == np.float32
        assert image.shape == simulate.SHAPE
        assert 0.0 <= image.min() < 0.05
        assert 0.8 < image.max() <= 1.0
    for labels, values in ((subject.tumor, range(4)), (subject.anatomy, range(5)), (subject.anatomy_before, range(5))):
        assert labels.dtype == np.uint8
        assert labels.shape == simulate.SHAPE
        assert np.unique(labels).tolist() == list(values)


def test_anatomy_is_unlabelled_inside_the_tumor_and_whole_before_it(subject):
    inside = subject.tumor > 0
    assert not subject.anatomy[inside].any()
    assert (subject.anatomy_before[inside] > 0).mean() > 0.95


def test_the_grid_is_two_millimeters_to_the_right_front_and_top_around_the_template_brain(subject, tmp_path):
    Volume(subject.anatomy_before, simulate.AFFINE).save(tmp_path / "anatomy.nii.gz")
    volume = Volume.load(tmp_path / "anatomy.nii.gz", labels=True)
    assert volume.axcodes == "RAS"
    assert tuple(volume.spacing_mm) == (2.0, 2.0, 2.0)
    assert volume.array.shape == simulate.SHAPE
    center_mm = volume.affine[:3, :3] @ np.argwhere(volume.array > 0).mean(0) + volume.affine[:3, 3]
    # The MNI brain lies about the anterior commissure, mostly behind it and above it.
    assert abs(center_mm[0]) < 4
    assert -35 < center_mm[1] < -5
    assert -5 < center_mm[2] < 25


def test_what_lies_on_the_left_in_the_array_lies_on_the_left_in_the_file(subject, tmp_path):
    column = np.argwhere(subject.tumor > 0).mean(0)[0]
    on_the_left = column < (simulate.SHAPE[0] - 1) / 2
    assert abs(column - (simulate.SHAPE[0] - 1) / 2) > 8, "the lesion of this seed should be on one side"
    for name, array in (("tumor", subject.tumor), ("flair", subject.images["flair"])):
        Volume(array, simulate.AFFINE).save(tmp_path / f"{name}.nii.gz")
    tumor = Volume.load(tmp_path / "tumor.nii.gz", labels=True)
    x_mm = tumor.affine[0, 0] * np.argwhere(tumor.array > 0)[:, 0] + tumor.affine[0, 3]
    assert (x_mm.mean() < 0) == on_the_left
    # The lesion, bright on FLAIR, is on that side of the image as well.
    flair = Volume.load(tmp_path / "flair.nii.gz").array
    brain = subject.anatomy_before > 0
    left, right = (np.percentile(flair[half][brain[half]], 98) for half in (slice(0, 40), slice(40, 80)))
    assert (left > right) == on_the_left


def test_an_anatomy_and_its_mirror_image_are_both_simulated(anatomies):
    # The template is not quite symmetric: its two lateral ventricles hold 19.4 and 17.7 ml.
    halves = [
        [
            np.count_nonzero(made.anatomy == simulate.VENTRICLES, axis=(1, 2))[side].sum()
            for side in (slice(40), slice(40, 80))
        ]
        for made in anatomies
    ]
    larger_on_the_left = sum(left > right for left, right in halves)
    assert 8 <= larger_on_the_left <= 32


def test_an_enhancing_rim_is_brighter_than_its_core_and_edema_lies_between_on_t1(subject):
    t1 = subject.images["t1"]
    core, edema, rim = (
        np.median(t1[subject.tumor == label]) for label in (simulate.NECROTIC_CORE, simulate.EDEMA, simulate.ENHANCING)
    )
    assert core < edema < rim
    assert rim - core > 0.4
    assert edema < np.median(t1[subject.anatomy == simulate.WHITE_MATTER])


def test_tissues_have_the_order_of_signal_of_their_contrast(subject):
    def level(contrast: str, label: int) -> float:
        core = ndimage.binary_erosion(subject.anatomy == label)
        return float(np.median(subject.images[contrast][core]))

    csf, gray, white, ventricles = (
        simulate.CSF,
        simulate.GRAY_MATTER,
        simulate.WHITE_MATTER,
        simulate.VENTRICLES,
    )
    assert level("t1", ventricles) < level("t1", csf) + 0.2 < level("t1", gray) + 0.2 < level("t1", white) + 0.2
    assert level("t2", white) < level("t2", gray) < level("t2", ventricles)
    assert level("flair", ventricles) < level("flair", white) < level("flair", gray)
    for contrast in ("t2", "flair"):
        edema = np.median(subject.images[contrast][subject.tumor == simulate.EDEMA])
        assert edema > level(contrast, white) + 0.15


def test_the_voxels_of_the_mask_are_those_that_differ_from_the_tumor_free_twin(subject, tumor_free_twin):
    difference = np.abs(subject.images["t1"] - tumor_free_twin.images["t1"])
    inside = subject.tumor > 0
    far = (ndimage.distance_transform_edt(~inside) > 15) & (subject.anatomy > 0)
    assert difference[inside].mean() > 3 * difference[far].mean()
    for label in (simulate.NECROTIC_CORE, simulate.EDEMA, simulate.ENHANCING):
        assert difference[subject.tumor == label].mean() > difference[far].mean()


def test_covariates_are_measured_on_the_anatomy(anatomies):
    voxel_ml = simulate.SPACING_MM**3 / 1000
    for name, labels, tolerance in (
        ("ventricular_ml", (simulate.VENTRICLES,), 0.25),
        ("brain_ml", (simulate.GRAY_MATTER, simulate.WHITE_MATTER), 0.15),
    ):
        stated = np.array([getattr(made.covariates, name) for made in anatomies])
        counted = np.array([np.isin(made.anatomy, labels).sum() * voxel_ml for made in anatomies])
        assert np.corrcoef(stated, counted)[0, 1] > 0.95
        assert abs(np.median(counted / stated) - 1) < tolerance


def test_covariates_are_fractions_of_the_ranges_that_the_configuration_names(anatomies):
    for made in anatomies:
        facts = made.covariates
        assert facts.sex in (0.0, 1.0)
        assert all(0.0 <= value <= 1.0 for value in facts.context)
        for fraction, milliliters, (low, high) in (
            (facts.ventricular_volume, facts.ventricular_ml, simulate.VENTRICULAR_ML_RANGE),
            (facts.brain_volume, facts.brain_ml, simulate.BRAIN_ML_RANGE),
        ):
            assert fraction == pytest.approx(min(max((milliliters - low) / (high - low), 0), 1), abs=1e-6)
    sexes = [made.covariates.sex for made in anatomies]
    assert 10 <= sum(sexes) <= 30


def test_ventricles_grow_and_brains_shrink_with_age_without_being_tied_to_it(anatomies):
    age = np.array([made.covariates.age for made in anatomies])
    ventricles = np.array([made.covariates.ventricular_ml for made in anatomies])
    brain = np.array([made.covariates.brain_ml for made in anatomies])
    assert 0.3 < np.corrcoef(age, ventricles)[0, 1] < 0.95
    assert -0.95 < np.corrcoef(age, brain)[0, 1] < 0.0
    years = simulate.AGE_RANGE_YEARS[0] + age * (simulate.AGE_RANGE_YEARS[1] - simulate.AGE_RANGE_YEARS[0])
    assert 0.2 < np.polyfit(years, ventricles, 1)[0] < 1.3  # about 0.65 ml a year was drawn


def test_the_seeds_of_training_validation_and_tests_never_overlap():
    assert simulate.TRAINING_SEEDS.stop <= simulate.VALIDATION_SEEDS.start
    assert simulate.VALIDATION_SEEDS.stop <= simulate.FIRST_TEST_SEED


def test_a_negative_seed_and_an_unknown_contrast_are_refused():
    with pytest.raises(ValueError, match="seed must not be negative, got -1"):
        simulate_subject(-1)
    with pytest.raises(ValueError, match="contrast must be one of t1, t2, flair, got 'pd'"):
        simulate_subject(SEED, ("pd",))
    with pytest.raises(ValueError, match="subjects must be at least 1, got 0"):
        write_cohort("unused", 0)


def test_a_written_cohort_holds_each_subjects_files_and_a_table_of_what_was_measured(subject, tmp_path):
    folder = write_cohort(tmp_path / "cohort", 2, seed=SEED, workers=1)
    suffixes = ("FLAIR", "T1w", "T2w", "anatomy", "tumor")
    expected = [f"sub-{SEED + i:06d}_{suffix}.nii.gz" for i in range(2) for suffix in suffixes]
    assert sorted(path.name for path in folder.iterdir()) == ["participants.tsv", *expected]
    assert_written(folder, subject)
    with open(folder / "participants.tsv", newline="") as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    assert [row["seed"] for row in rows] == [str(SEED), str(SEED + 1)]
    first, facts = rows[0], subject.covariates
    assert first["participant_id"] == f"sub-{SEED}"
    assert first["sex"] == ("M" if facts.sex else "F")
    assert 44 <= float(first["age_years"]) <= 82
    assert float(first["ventricular_ml"]) == pytest.approx(facts.ventricular_ml, abs=0.01)
    assert float(first["brain_ml"]) == pytest.approx(facts.brain_ml, abs=0.1)
    assert float(first["tumor_ml"]) == pytest.approx((subject.tumor > 0).sum() * 0.008, abs=0.01)


def assert_written(folder: Path, subject: Subject) -> None:
    images = {"T1w": "t1", "T2w": "t2", "FLAIR": "flair"}
    for suffix, name in images.items():
        volume = Volume.load(folder / f"sub-{subject.seed}_{suffix}.nii.gz")
        np.testing.assert_array_equal(volume.array, subject.images[name])
        np.testing.assert_array_equal(volume.affine, simulate.AFFINE)
    for suffix in ("tumor", "anatomy"):
        volume = Volume.load(folder / f"sub-{subject.seed}_{suffix}.nii.gz", labels=True)
        np.testing.assert_array_equal(volume.array, getattr(subject, suffix))
