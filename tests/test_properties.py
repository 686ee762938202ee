"""What holds for every volume and every request that can be made, tried on many by hypothesis."""

import math

import numpy as np
from fuzz_volume import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from vcm.request import (
    AGE_RANGE,
    GUIDANCE_SCALE_RANGE,
    NUM_INFERENCE_STEPS_RANGE,
    SEED_RANGE,
    SEXES,
    GenerationRequest,
)
from vcm.sampler.solvers import SOLVERS
from vcm.volume import Volume, VolumeError

RANGES = {
    "guidance_scale": GUIDANCE_SCALE_RANGE,
    "num_inference_steps": NUM_INFERENCE_STEPS_RANGE,
    "seed": SEED_RANGE,
    "age": AGE_RANGE,
    "ventricular_volume": (0.0, 1.0),
    "brain_volume": (0.0, 1.0),
}
WHOLE = {"num_inference_steps", "seed"}
ANYTHING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2)
)
SHAPES = arrays.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=5)
LABELS = arrays.arrays(np.uint8, SHAPES, elements=st.integers(0, 4))
AFFINES = st.tuples(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.tuples(*[st.floats(0.25, 8.0, width=32)] * 3),
    st.tuples(*[st.integers(-200, 200)] * 3),
).map(lambda parts: make_affine(*parts))


def make_affine(axes, signs, spacing, origin) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) * np.array(signs) * np.array(spacing))[axes]
    affine[:3, 3] = origin
    return affine


@settings(deadline=None, max_examples=60)
@given(labels=LABELS, affine=AFFINES, name=st.sampled_from(["volume.nii", "volume.nii.gz"]))
def test_every_volume_that_is_saved_is_loaded_as_it_was(tmp_path_factory, labels, affine, name):
    path = tmp_path_factory.mktemp("volumes") / name
    Volume(labels, affine).save(path)
    loaded = Volume.load(path, labels=True)
    np.testing.assert_array_equal(loaded.array, labels)
    np.testing.assert_allclose(loaded.affine, affine, rtol=1e-5, atol=1e-4)


@settings(deadline=None, max_examples=60)
@given(labels=LABELS, affine=AFFINES)
def test_a_volume_on_its_own_grid_stays_as_it_is(labels, affine):
    moved = Volume(labels, affine).to_grid(labels.shape, affine, labels=True)
    np.testing.assert_array_equal(moved.array, labels)
    assert moved.notes == ()


@settings(deadline=None, max_examples=60)
@given(labels=LABELS, affine=AFFINES, target=AFFINES, shape=SHAPES)
def test_no_grid_invents_a_label(labels, affine, target, shape):
    try:
        moved = Volume(labels, affine).to_grid(shape, target, labels=True)
    except VolumeError as error:
        assert "field of view" in str(error)
        return
    assert moved.array.shape == shape
    assert set(np.unique(moved.array)) <= {0, *np.unique(labels)}


@settings(deadline=None)
@given(field=st.sampled_from(sorted(RANGES)), value=ANYTHING)
def test_a_request_takes_what_lies_in_its_range_and_refuses_all_else_by_name(field, value):
    low, high = RANGES[field]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_good = is_number and low <= value <= high and (field not in WHOLE or math.floor(value) == value)
    try:
        request = GenerationRequest(**{field: value})
    except ValueError as error:
        assert not is_good
        assert str(error).startswith(f"{field} is ")
        assert f"{low:g}" in str(error)
        assert len(str(error)) < 200
    else:
        assert is_good
        assert getattr(request, field) == value


@settings(deadline=None)
@given(start=st.floats(-0.5, 1.5), end=st.floats(-0.5, 1.5))
def test_a_control_window_is_two_fractions_in_order(start, end):
    is_good = 0 <= start <= end <= 1
    try:
        GenerationRequest(control_start=start, control_end=end)
    except ValueError as error:
        assert not is_good
        assert str(error).startswith("control_")
    else:
        assert is_good


@settings(deadline=None)
@given(sampler=st.one_of(ANYTHING, st.sampled_from(list(SOLVERS))), sex=st.one_of(ANYTHING, st.sampled_from(SEXES)))
def test_a_choice_is_one_of_those_there_are(sampler, sex):
    try:
        request = GenerationRequest(sampler=sampler, sex=sex)
    except ValueError as error:
        assert str(error).startswith(("sampler is ", "sex is "))
    else:
        assert request.sampler in SOLVERS
        assert request.sex in SEXES


def test_mutated_files_end_in_a_volume_or_in_a_sentence():
    figures = fuzz(400)
    assert figures["loaded"] > 20
    assert figures["refused"] > 100
