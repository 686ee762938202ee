"""Several processes that train together: the same weights in all, batches of their own, one that writes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vcm.train.record import read_training
from vcm.train.team import Team
from vcm.weights.checkpoint import load_model

SCRIPT = Path(__file__).parent / "team_training.py"


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> Path:
    """What two processes of one launch left behind."""
    out = tmp_path_factory.mktemp("team")
    launcher = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ]
    done = subprocess.run([*launcher, SCRIPT, out], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.long
def test_all_processes_come_to_the_same_weights_from_batches_of_their_own(launched):
    first, second = (json.loads((launched / f"line-{index}.json").read_text()) for index in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["averaged"] == second["averaged"]
    assert not set(first["seen"]) & set(second["seen"])
    # Only one of them used this part: it has learned in both.
    assert first["weights"]["own.weight"] != first["weights"]["unused.weight"]


@pytest.mark.long
def test_one_process_validates_and_writes_for_all(launched):
    first, second = (json.loads((launched / f"line-{index}.json").read_text()) for index in (0, 1))
    assert first["validated"] == [2, 4]
    assert second["validated"] == []
    log = [json.loads(line) for line in (launched / "line" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == [2, 2, 4, 4]


@pytest.mark.long
def test_a_stage_trained_by_a_team_is_a_model_folder_and_says_so(launched):
    model = load_model(launched / "made")
    assert model.adapter.modalities == ("tumor", "anatomy")
    (run,) = read_training(launched / "made")["vcm"]
    assert run == {"from_weights": False, "steps": 2, "subjects": 2, "processes": 2}


def test_a_process_that_is_alone_waits_for_nobody(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    team = Team("cpu")
    assert (team.index, team.count, team.is_first) == (0, 1, True)
    team.wait()
    with team.one_first():
        assert team.share("said") == "said"
