"""Session files: whose they are, how many stay, and when they go."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui.server.session_files import (
    KEPT_RUNS,
    keep_in_use,
    leave_session,
    remove_old_sessions,
    session_folder,
    write_downloads,
)
from vcm.weights.checkpoint import LoadedModel


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


def settle(name: str) -> Path:
    folder = session_folder(visitor(name))
    folder.mkdir(parents=True)
    (folder / "volume").write_text("x")
    return folder


def test_the_files_of_a_closed_page_go_after_a_while_and_those_of_others_stay(cache):
    one, two = settle("one"), settle("two")
    leave_session(visitor("one"), grace_seconds=0.3)
    assert (one / "volume").exists()
    deadline = time.monotonic() + 10
    while one.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not one.exists()
    assert (two / "volume").exists()


def test_a_page_whose_connection_was_broken_for_a_moment_keeps_its_files(cache):
    folder = settle("one")
    leave_session(visitor("one"), grace_seconds=0.2)
    assert (session_folder(visitor("one")) / "volume").exists()  # it is heard of again
    time.sleep(0.6)
    remove_old_sessions(grace_seconds=0)
    assert (folder / "volume").exists()


def test_leaving_without_any_files_leaves_none(cache):
    leave_session(visitor("nobody yet"))
    assert not session_folder(visitor("nobody yet")).exists()


def test_files_in_use_are_not_old_and_those_outside_the_cache_are_left_alone(cache, tmp_path_factory):
    inside, outside = cache / "layer.u8.gz", tmp_path_factory.mktemp("elsewhere") / "layer.u8.gz"
    for file in (inside, outside):
        file.write_bytes(b"x")
        os.utime(file, (0, 0))
    keep_in_use([inside, outside, cache / "gone.u8.gz"])
    assert inside.stat().st_mtime > time.time() - 60
    assert outside.stat().st_mtime == 0
    assert not (cache / "gone.u8.gz").exists()


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
