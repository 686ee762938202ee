"""Session files: whose they are, how many stay, and when they go."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vcm.checkpoint import LoadedModel
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui.session_files import KEPT_RUNS, remove_old_sessions, remove_session, session_folder, write_downloads


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gradio's cache in a folder of the test's own."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return tmp_path


def visitor(session: str | None) -> SimpleNamespace:
    return SimpleNamespace(session_hash=session)


def test_each_session_has_a_folder_of_its_own(cache):
    one, two = session_folder(visitor("one")), session_folder(visitor("two"))
    assert one != two
    assert session_folder(visitor("one")) == one


@pytest.mark.parametrize("session", ["../../etc", "/etc", "a/../../b", "", None])
def test_no_session_name_leads_out_of_the_cache(cache, session):
    folder = session_folder(visitor(session))
    assert folder.parent == cache / "vcm"
    assert folder.name.isalnum()


def test_leaving_removes_the_files_of_that_visitor_only(cache):
    for name in ("one", "two"):
        session_folder(visitor(name)).mkdir(parents=True)
        (session_folder(visitor(name)) / "volume").write_text("x")
    remove_session(visitor("one"))
    assert not session_folder(visitor("one")).exists()
    assert (session_folder(visitor("two")) / "volume").exists()


def test_the_files_of_the_newest_runs_stay_and_older_ones_go(cache, tiny_model: LoadedModel):
    pipeline, folder = Pipeline(tiny_model), cache / "session"
    for seed in range(KEPT_RUNS + 2):
        files = write_downloads(pipeline(GenerationRequest(num_inference_steps=1, seed=seed)), folder)
        assert set(files) == {"controlled.nii.gz", "uncontrolled.nii.gz", "recipe.json"}
        assert all(path.exists() for path in files.values())
    assert len(list((folder / "runs").iterdir())) == KEPT_RUNS


def test_files_of_those_who_never_said_goodbye_go_by_age_and_others_stay(cache):
    for name in ("gone", "here"):
        session_folder(visitor(name)).mkdir(parents=True)
    opening = cache / "vcm" / "opening"  # what every page opens on is nobody's
    opening.mkdir()
    for folder in (session_folder(visitor("gone")), opening):
        os.utime(folder, (0, time.time() - 3601))
    remove_old_sessions(3600)
    assert not session_folder(visitor("gone")).exists()
    assert session_folder(visitor("here")).exists()
    assert opening.exists()
