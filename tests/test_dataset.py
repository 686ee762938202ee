"""Cohorts on disk: made once, gone on with where a run stopped, never read when they are of another recipe."""

import json
from pathlib import Path

import numpy as np
import pytest

from vcm.data import cohort as dataset
from vcm.data import simulate
from vcm.data.cohort import Cohort, read_json, simulated_cohort, write_json

SEEDS = range(3)
ARRAYS = ("tumor", "anatomy", "anatomy_before", "context", "volumes_ml")


def make(cache: Path, seeds: range = SEEDS, **options) -> Cohort:
    return simulated_cohort(cache, seeds, workers=1, **options)


def copy_arrays(cohort: Cohort) -> dict[str, np.ndarray]:
    arrays = {name: np.array(getattr(cohort, name)) for name in ARRAYS}
    return arrays | {f"image-{name}": np.array(image) for name, image in cohort.images.items()}


def assert_same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cohorts")


@pytest.fixture(scope="module")
def cohort(cache) -> Cohort:
    return make(cache)


class SubjectCounter:
    """Counts the subjects that are really simulated, and can stop the run after some."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int | None = None) -> None:
        self.seeds: list[int] = []
        self._simulate, self._stop_after = simulate.simulate_subjects, stop_after
        monkeypatch.setattr(simulate, "simulate_subjects", self._count)

    def _count(self, *arguments):
        for subject in self._simulate(*arguments):
            if self._stop_after is not None and len(self.seeds) == self._stop_after:
                raise KeyboardInterrupt
            self.seeds.append(subject.seed)
            yield subject


def test_a_cohort_holds_its_subjects_in_order(cohort):
    assert len(cohort) == 3
    subject = simulate.simulate_subject(1, ("t1",))
    np.testing.assert_array_equal(cohort.images["t1"][1], subject.images["t1"].astype(np.float16))
    for name in ("tumor", "anatomy", "anatomy_before"):
        np.testing.assert_array_equal(getattr(cohort, name)[1], getattr(subject, name))
    np.testing.assert_array_equal(cohort.context[1], np.float32(subject.covariates.context))
    facts = subject.covariates
    np.testing.assert_array_equal(cohort.volumes_ml[1], np.float32([facts.ventricular_ml, facts.brain_ml]))


def test_a_whole_cohort_is_read_and_not_simulated_again(cohort, cache, monkeypatch):
    counter = SubjectCounter(monkeypatch)
    assert_same(copy_arrays(make(cache)), copy_arrays(cohort))
    assert counter.seeds == []


def test_a_cohort_goes_on_where_a_killed_run_stopped_and_equals_a_fresh_one(cohort, tmp_path, monkeypatch):
    # Progress is written every fifty subjects, so put it after the first by hand, as a kill there would leave it.
    with monkeypatch.context() as patched:
        SubjectCounter(patched, stop_after=2)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "done.json").exists()
    write_json(folder / "done.json", {"subjects": 1})

    counter = SubjectCounter(monkeypatch)
    resumed = make(tmp_path)
    assert counter.seeds == [1, 2]
    assert_same(copy_arrays(resumed), copy_arrays(cohort))
    assert read_json(folder / "done.json")["subjects"] == 3


def test_an_array_that_was_lost_is_made_again_with_all_the_others(cohort, tmp_path, monkeypatch):
    make(tmp_path, range(1))
    (folder,) = tmp_path.iterdir()
    (folder / "tumor.npy").unlink()
    counter = SubjectCounter(monkeypatch)
    again = make(tmp_path, range(1))
    assert counter.seeds == [0]
    np.testing.assert_array_equal(again.tumor[0], cohort.tumor[0])
    np.testing.assert_array_equal(again.images["t1"][0], cohort.images["t1"][0])


def test_another_recipe_has_a_folder_of_its_own(cache, cohort, tmp_path, monkeypatch):
    make(tmp_path, range(1))
    make(tmp_path, range(1), contrasts=())
    make(tmp_path, range(1), with_tumor=False)
    make(tmp_path, range(1, 2))
    assert len(list(tmp_path.iterdir())) == 4


def test_a_new_version_of_the_simulation_reads_no_stale_cohort(tmp_path, monkeypatch):
    make(tmp_path, range(1), contrasts=())
    monkeypatch.setattr(dataset, "_COHORT_VERSION", dataset._COHORT_VERSION + 1)
    counter = SubjectCounter(monkeypatch)
    make(tmp_path, range(1), contrasts=())
    assert counter.seeds == [0]


def test_a_tumor_free_cohort_has_the_same_anatomy_and_no_tumor(cohort, tmp_path):
    healthy = make(tmp_path, with_tumor=False, contrasts=())
    assert cohort.tumor.any()
    assert not healthy.tumor.any()
    np.testing.assert_array_equal(healthy.anatomy, cohort.anatomy_before)
    np.testing.assert_array_equal(healthy.context, cohort.context)


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "facts.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert read_json(path) == {"a": 1}
    write_json(path, {"a": [1, 2.5, None]})
    assert read_json(path) == json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert [entry.name for entry in tmp_path.iterdir()] == ["facts.json"]
