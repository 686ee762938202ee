"""Shards: what a launcher's environment says, over all shards each item once, and one that waits for the others."""

import threading
import time

import pytest

from vcm.runtime.shards import Shard, ShardError, find_shard


@pytest.mark.parametrize("environment", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}, {"RANK": "3"}])
def test_without_a_launcher_there_is_one_shard_with_everything(environment):
    shard = find_shard(environment)
    assert (shard.index, shard.count) == (0, 1)
    assert shard.take("abc") == ["a", "b", "c"]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_all_shards_together_take_each_item_once(count):
    shards = [find_shard({"RANK": str(index), "WORLD_SIZE": str(count)}) for index in range(count)]
    taken = [item for shard in shards for item in shard.take("abcde")]
    assert sorted(taken) == list("abcde")


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"WORLD_SIZE": "2"}, "set RANK"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "from 0 to WORLD_SIZE - 1"),
        ({"WORLD_SIZE": "0"}, "from 0 to WORLD_SIZE - 1"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE must be a whole number"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK must be a whole number"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK must be a whole number"),
    ],
)
def test_an_environment_that_names_no_shard_gives_one_sentence(environment, sentence):
    with pytest.raises(ShardError, match=sentence):
        find_shard(environment)


def test_each_process_of_a_machine_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    shards = [Shard(index, 3, local_index=index) for index in range(3)]
    assert [shard.choose_device("auto") for shard in shards] == ["cuda:0", "cuda:1", "cuda:0"]
    assert shards[1].choose_device("cuda") == "cuda:1"
    assert [shards[1].choose_device(name) for name in ("cpu", "cuda:0")] == ["cpu", "cuda:0"]
    assert Shard(1, 2).choose_device("auto") == "auto"


def test_without_a_gpu_the_device_stays_as_it_was_asked_for(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert Shard(1, 2, local_index=1).choose_device("auto") == "auto"


def test_a_shard_that_failed_ends_only_after_its_siblings(tmp_path):
    """Else its launcher would stop them."""
    variables = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    first, second = (
        find_shard({**variables, **numbers, "TORCHELASTIC_ERROR_FILE": f"{tmp_path}/{numbers['RANK']}/error.json"})
        for numbers in ({"RANK": "0", "LOCAL_RANK": "0"}, {"RANK": "1", "LOCAL_RANK": "1"})
    )
    waiting = threading.Thread(target=lambda: first.end(failed=True, poll_seconds=0.01), daemon=True)
    waiting.start()
    time.sleep(0.1)
    assert waiting.is_alive()
    second.end(failed=False)
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_shard_without_siblings_ends_at_once():
    Shard(0, 2).end(failed=True)
