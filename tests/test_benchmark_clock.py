"""The benchmark's clock: whose seconds count, turns, and what memory a process needed."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vcm.runtime.clock import Seconds, clocked, one_thread, peak_memory_mib, summarize_seconds, take_turns

CPU = torch.device("cpu")


def test_waiting_is_no_work():
    waited = clocked(CPU, lambda: time.sleep(0.2))
    assert waited.wall >= 0.2
    assert waited.cpu < 0.9 * waited.wall  # whatever else this process has going on

    def work():
        until = time.process_time() + 0.05
        while time.process_time() < until:
            pass

    assert clocked(CPU, work).cpu >= 0.05


def test_a_gpu_is_timed_by_two_events_around_the_call(monkeypatch):
    log = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            log.append("event")

        def elapsed_time(self, other):
            assert isinstance(other, Event)
            return 1500.0  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: log.append("wait"))
    assert clocked(torch.device("cuda"), lambda: log.append("call")).cpu == 1.5
    assert log == ["wait", "event", "call", "event", "wait"]


def test_contestants_take_turns_and_a_warm_up_does_not_count():
    order = []

    def contestant(name):
        def run():
            order.append(name)
            return Seconds(float(len(order)), 0.0)

        return run

    found = take_turns({name: contestant(name) for name in "ab"}, 2, warm_up=True)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert found["a"]["cpu_rounds"] == [3.0, 5.0]
    assert found["b"]["cpu_rounds"] == [4.0, 6.0]


def test_seconds_are_summed_up_by_median_and_percentiles():
    cpu = [3.0, 1.0, 2.0, 10.0, 4.0]
    summary = summarize_seconds([Seconds(seconds, 2 * seconds) for seconds in cpu])
    assert summary["cpu_rounds"] == cpu
    assert summary["cpu_seconds"] == 3.0
    assert summary["wall_seconds"] == 6.0
    assert [summary["cpu_p10"], summary["cpu_p90"]] == pytest.approx(np.percentile(cpu, [10, 90]).tolist())


def test_seconds_add_up_and_scale():
    assert Seconds(1.0, 2.0) + Seconds(0.5, 0.25) == (1.5, 2.25)
    assert Seconds(1.0, 2.0).scaled(10) == (10.0, 20.0)


def test_one_thread_is_given_back_even_after_a_failure():
    seen = []

    def fail():
        with one_thread(CPU):
            seen.append(torch.get_num_threads())
            raise ZeroDivisionError

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError):
            fail()
        assert seen == [1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_peak_of_memory_stays_when_the_memory_is_given_back():
    block = np.ones(2**25)  # 256 MiB
    with_block = peak_memory_mib()
    assert with_block > 256
    del block
    assert peak_memory_mib() > with_block - 10  # the kernel counts in batches


def test_elsewhere_than_on_linux_the_peak_comes_from_getrusage(monkeypatch):
    import vcm.runtime.clock as clock

    monkeypatch.setattr(clock.Path, "is_file", lambda path: False)
    monkeypatch.setattr(clock.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=3 * 2**20))
    monkeypatch.setattr(clock.sys, "platform", "darwin")  # bytes there, KiB on the others
    assert peak_memory_mib() == 3
    monkeypatch.setattr(clock.sys, "platform", "freebsd")
    assert peak_memory_mib() == 3 * 2**10
