"""Requests: what is accepted, and what each refusal says."""

import dataclasses
import pickle

import numpy as np
import pytest

from vcm.request import GenerationRequest
from vcm.volume import Volume


@pytest.fixture
def volume() -> Volume:
    return Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))


def test_the_defaults_are_those_of_the_contract() -> None:
    request = GenerationRequest()
    assert dataclasses.asdict(request) == {
        "conditions": {},
        "guidance_scale": 1.0,
        "num_inference_steps": 20,
        "seed": 0,
        "sampler": "unipc",
        "control_start": 0.0,
        "control_end": 1.0,
        "sex": "female",
        "age": 63.0,
        "ventricular_volume": 0.5,
        "brain_volume": 0.5,
        "compare": True,
        "fill": None,
        "placement": None,
    }


@pytest.mark.parametrize(
    ("name", "values", "range_text"),
    [
        ("guidance_scale", [-0.1, 10.5, 1e9, float("nan"), float("inf"), "abc", None, True], "0 to 10"),
        ("num_inference_steps", [0, -1, 1001, 2.5, float("nan"), float("inf"), "abc", True, [20]], "1 to 1000"),
        ("seed", [-1, 2**32, 2**64, 10**400, 0.5, "7", False, None], "0 to 4294967295"),
        ("control_start", [-0.01, 1.01, float("nan"), "0"], "0 to 1"),
        ("control_end", [-0.01, 1.01, float("nan"), "1"], "0 to 1"),
        ("age", [43.9, 82.1, 300, np.float32(300), float("nan"), "old"], "44 to 82 years"),
        ("ventricular_volume", [-0.1, 1.1, float("nan"), "large"], "0 to 1"),
        ("brain_volume", [-0.1, 1.1, float("nan"), "large"], "0 to 1"),
        ("sampler", ["euler", "UniPC", 3, None], "unipc, ddim, dpmpp"),
        ("sex", ["other", 1, None, True], "female, male"),
        ("compare", [1, "yes", None], "true or false"),
        ("conditions", [None, ["tumor"], "tumor"], "dictionary"),
    ],
)
def test_a_bad_value_is_refused_with_its_field_and_range(name: str, values: list[object], range_text: str) -> None:
    for value in values:
        with pytest.raises(ValueError) as refusal:
            GenerationRequest(**{name: value})  # type: ignore[arg-type]
        message = str(refusal.value)
        assert message.startswith(f"{name} is ")
        assert range_text in message
        assert len(message) < 200


def test_a_refusal_shows_the_value() -> None:
    with pytest.raises(ValueError, match=r"^age is 300\.0; it must be a number from 44 to 82 years\.$"):
        GenerationRequest(age=np.float32(300))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("guidance_scale", (0, 10)),
        ("num_inference_steps", (1, 1000)),
        ("seed", (0, 2**32 - 1)),
        ("age", (44, 82)),
        ("ventricular_volume", (0, 1)),
        ("brain_volume", (0, 1)),
    ],
)
def test_both_ends_of_a_range_belong_to_it(name: str, ends: tuple[float, float]) -> None:
    for end in ends:
        assert getattr(GenerationRequest(**{name: end}), name) == end  # type: ignore[arg-type]


def test_numbers_of_numpy_and_whole_floats_become_plain_numbers() -> None:
    request = GenerationRequest(seed=np.int64(7), num_inference_steps=20.0, age=np.float32(60))  # type: ignore[arg-type]
    assert [type(value) for value in (request.seed, request.num_inference_steps, request.age)] == [int, int, float]
    assert (request.seed, request.num_inference_steps, request.age) == (7, 20, 60.0)


def test_control_may_not_end_before_it_starts() -> None:
    with pytest.raises(ValueError, match=r"control_start is 0\.6; it must be at most control_end, which is 0\.5"):
        GenerationRequest(control_start=0.6, control_end=0.5)
    assert GenerationRequest(control_start=0.5, control_end=0.5).control_end == 0.5


def test_an_unknown_condition_is_refused_with_those_there_are(volume: Volume) -> None:
    with pytest.raises(ValueError, match=r"'tumour'; it must be one of tumor, anatomy, partial"):
        GenerationRequest(conditions={"tumour": volume})


def test_a_condition_must_be_a_volume(volume: Volume) -> None:
    with pytest.raises(ValueError, match=r"conditions\['tumor'\] is of type ndarray; it must be a Volume"):
        GenerationRequest(conditions={"tumor": volume.array})  # type: ignore[dict-item]


def test_a_request_keeps_its_own_dictionary_of_conditions(volume: Volume) -> None:
    conditions = {"tumor": volume}
    request = GenerationRequest(conditions=conditions)
    conditions.clear()
    assert request.conditions == {"tumor": volume}


def test_a_request_cannot_be_changed_and_travels_by_pickle(volume: Volume) -> None:
    request = GenerationRequest(conditions={"tumor": volume}, seed=7)
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.seed = 8  # type: ignore[misc]
    copy = pickle.loads(pickle.dumps(request))
    assert copy.seed == 7
    assert np.array_equal(copy.conditions["tumor"].array, volume.array)


def test_a_fill_belongs_to_a_partial_scan_and_is_a_volume():
    volume = Volume(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    assert GenerationRequest({"partial": volume}, fill=volume).fill is volume
    with pytest.raises(ValueError, match="give the condition partial, too"):
        GenerationRequest({"tumor": volume}, fill=volume)
    with pytest.raises(ValueError, match="fill is of type str; it must be a Volume"):
        GenerationRequest({"partial": volume}, fill="mask.nii.gz")
