"""Files from the hub: every failure is one sentence, and the next try works."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_stand_in import COMMIT, HubStandIn, serve_hub, turn_to

from vcm.weights.checkpoint import CheckpointError
from vcm.weights.hub import HubFile, HubSource, fetch, is_repository

WEIGHTS = bytes(range(256)) * 4000
SOURCE = HubSource("lab/model", "main", (HubFile("models/weights.pt"), HubFile("config.json")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubStandIn]:
    with serve_hub() as hub:
        turn_to(hub, monkeypatch, tmp_path)
        hub.files = {"lab/model/models/weights.pt": WEIGHTS, "lab/model/config.json": b"{}"}
        yield hub


def refusal(source: HubSource = SOURCE) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch(source)
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message
    assert "127.0.0.1" not in message
    assert "/tmp" not in message
    return message


def test_files_are_fetched_once_with_their_commit_and_sum(hub: HubStandIn) -> None:
    weights, config = fetch(SOURCE)
    assert weights.path.read_bytes() == WEIGHTS
    assert weights.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert weights.commit == config.commit == COMMIT
    downloads = [request for request in hub.requests if request[0] == "GET"]
    assert fetch(SOURCE) == [weights, config]
    assert [request for request in hub.requests if request[0] == "GET"] == downloads


def test_every_file_is_of_the_commit_of_the_first(hub: HubStandIn) -> None:
    fetch(SOURCE)
    asked = [path for method, path, _ in hub.requests if path.endswith("config.json")]
    assert asked
    assert all(COMMIT in path for path in asked)


def test_what_is_cached_needs_no_network_and_no_cache_is_said(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refusal()
    assert hub.requests == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    fetched = fetch(SOURCE)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert fetch(SOURCE) == fetched


def test_a_connection_that_is_cut_is_taken_up_where_it_broke(hub: HubStandIn) -> None:
    hub.faults["weights.pt"] = "cut"
    assert fetch(SOURCE)[0].path.read_bytes() == WEIGHTS
    assert any(given is not None for _, path, given in hub.requests if path.endswith("weights.pt"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "no such file"),
        ("error", "the status 500"),
        ("stuck", "the connection broke"),
        ("wrong", "its SHA-256 sum is not the promised one"),
        ("pointer", "only a pointer"),
        ("page", "web page"),
    ],
)
def test_a_failure_is_one_sentence_and_the_next_try_works(hub: HubStandIn, fault: str, message: str) -> None:
    hub.faults["weights.pt"] = fault
    told = refusal()
    assert message in told
    assert "weights.pt" in told
    hub.faults.clear()
    assert fetch(SOURCE)[0].path.read_bytes() == WEIGHTS


def test_a_sum_that_is_known_beforehand_is_checked(hub: HubStandIn) -> None:
    known = HubSource("lab/model", COMMIT, (HubFile("models/weights.pt", hashlib.sha256(WEIGHTS).hexdigest()),))
    assert fetch(known)[0].commit == COMMIT
    other = HubSource("lab/model", COMMIT, (HubFile("models/weights.pt", "0" * 64),))
    assert "not the promised one" in refusal(other)


def test_a_damaged_byte_in_the_cache_is_noticed_and_fetched_again(hub: HubStandIn) -> None:
    blob = fetch(SOURCE)[0].path.resolve()
    blob.chmod(0o644)
    blob.write_bytes(b"x" + WEIGHTS[1:])
    assert "not the promised one" in refusal()
    assert fetch(SOURCE)[0].path.read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (HubSource("lab/nothing", "main", SOURCE.files), "no such repository"),
        (HubSource("lab/model", "nowhere", SOURCE.files), "no such revision"),
        (HubSource("lab/--model..", "main", SOURCE.files), "no name of a repository"),
    ],
)
def test_what_does_not_exist_is_named(hub: HubStandIn, source: HubSource, message: str) -> None:
    assert message in refusal(source)


def test_a_hub_that_is_not_there_is_said(hub: HubStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.address = "http://127.0.0.1:9"
    turn_to(hub, monkeypatch, tmp_path / "other")
    assert "cannot be reached" in refusal()


def test_a_repository_has_an_owner_and_a_name() -> None:
    assert is_repository("lab/model-1.0")
    for text in ("model", "lab/model/file", "../model/x", "/lab", "", "lab/ model"):
        assert not is_repository(text)
