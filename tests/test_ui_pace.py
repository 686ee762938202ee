"""The estimate of a run's time: unknown at first, then learned, and proportional to the work."""

import numpy as np
import pytest

from vcm.request import GenerationRequest
from vcm.ui.server.pace import Pace, Workload, convert_timings
from vcm.volume import Volume


def test_nothing_is_promised_before_the_first_run():
    assert Pace().estimate_seconds(Workload(20, 20)) is None
    assert Pace().estimate_rest(Workload(20, 20), 5, 20) is None


def test_the_same_run_is_estimated_as_it_was():
    pace, work = Pace(), Workload(20, 20)
    pace.learn(work, {"encode": 1.0, "sample": 8.0, "preview": 0.5, "decode": 2.0, "segment": 1.0})
    assert pace.estimate_seconds(work) == pytest.approx(12.5)


def test_more_work_takes_longer_and_less_takes_less():
    pace = Pace()
    pace.learn(Workload(20, 20), {"sample": 8.0, "decode": 2.0})
    alone, both, long = (pace.estimate_seconds(work) for work in (Workload(20, 0), Workload(20, 20), Workload(40, 40)))
    assert alone < both < long
    assert long == pytest.approx(18.0)


def test_the_rest_shrinks_to_what_comes_after_the_last_step():
    pace, work = Pace(), Workload(10, 10)
    pace.learn(work, {"sample": 10.0, "decode": 2.0})
    rests = [pace.estimate_rest(work, step, 10) for step in range(1, 11)]
    assert rests == sorted(rests, reverse=True)
    assert rests[-1] == pytest.approx(2.0)


def test_a_machine_that_gets_slower_is_noticed():
    pace, work = Pace(), Workload(10, 0)
    pace.learn(work, {"sample": 1.0})
    for _ in range(6):
        pace.learn(work, {"sample": 4.0})
    assert pace.estimate_seconds(work) == pytest.approx(4.0, rel=0.1)


def test_a_run_that_was_all_cached_teaches_nothing():
    pace = Pace()
    pace.learn(Workload(0, 0), {"sample": 0.0})
    assert pace.estimate_seconds(Workload(20, 0)) is None


@pytest.mark.parametrize(
    ("compare", "is_controlled", "work"),
    [(True, True, (7, 7)), (False, True, (7, 0)), (True, False, (0, 7)), (False, False, (0, 7))],
)
def test_the_work_of_a_request_is_what_it_computes(compare, is_controlled, work):
    request = GenerationRequest(num_inference_steps=7, compare=compare)
    assert Workload.of(request, is_controlled=is_controlled) == Workload(*work)


def test_following_thick_slices_is_known_to_take_longer_and_is_not_taken_for_the_pace_of_others():
    slices = GenerationRequest(
        {"lowres": Volume(np.zeros((2, 2, 2)), np.eye(4))}, num_inference_steps=10, compare=False
    )
    work, plain = Workload.of(slices), Workload(10, 0)
    assert work.evaluations == plain.evaluations
    pace = Pace()
    pace.learn(plain, {"sample": 10.0, "decode": 2.0})
    known = pace.estimate_seconds(plain)
    assert pace.estimate_seconds(work) > known + 2.0
    pace.learn(work, {"sample": 10.0, "decode": 2.0, "agree": 4.0})
    assert pace.estimate_seconds(plain) == pytest.approx(known)
    assert Workload.of(slices, is_controlled=False).round_trips == 0
    to_come = GenerationRequest(num_inference_steps=10, compare=False)
    assert Workload.of(to_come, has_slices=True) == work


def test_a_run_that_goes_slower_than_those_before_says_so():
    pace, work = Pace(), Workload(10, 10)
    pace.learn(work, {"sample": 10.0, "decode": 2.0})
    assert pace.estimate_rest(work, 4, 10, seconds_a_step=5.0) == pytest.approx(6 * 5.0 + 2.0)
    assert Pace().estimate_rest(work, 4, 10, seconds_a_step=5.0) == pytest.approx(30.0)


def test_what_a_run_took_elsewhere_is_told_at_the_speed_of_this_machine():
    work = Workload(10, 10)
    there = {"encode": 0.5, "sample": work.evaluations * 0.1, "decode": 1.0}
    here = convert_timings(work, there, seconds_a_step=0.3)
    assert here == pytest.approx({stage: 3 * seconds for stage, seconds in there.items()})
    assert convert_timings(work, {"decode": 1.0}, seconds_a_step=0.3) == {"decode": 1.0}
