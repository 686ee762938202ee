"""The calibration: what was drawn against what was found, and how small a lesion may be."""

import json

import pytest

from vcm.weights.calibration import Calibration, Lesion, load_calibration, read_calibration


def lesions(dices: list[float]) -> Calibration:
    """One lesion for each overlap, rising in size: 1, 2, 3 ... ml."""
    return Calibration(tuple(Lesion(float(ml), float(ml), 10.0 + ml, dice) for ml, dice in enumerate(dices, start=1)))


@pytest.mark.parametrize(
    ("dices", "smallest_ml"),
    [
        ([0.0] * 20, None),
        ([0.9] * 20, 1.0),
        ([0.9] * 4, None),  # too few to say
        ([0.1] * 10 + [0.9] * 10, 11.0),
        ([0.9] * 10 + [0.1] * 10, None),  # a model that follows small ones only is not reliable
        ([0.1] * 10 + [0.9] * 4 + [0.1] + [0.9] * 5, 11.0),  # one of five may miss
        ([0.1] * 10 + [0.9] * 3 + [0.1, 0.1] + [0.9] * 5, 16.0),
        ([0.1, 0.9, 0.9, 0.9, 0.9, 0.9], 2.0),  # the smallest is itself one that is followed
    ],
)
def test_from_the_smallest_size_on_at_most_one_of_five_neighbors_is_missed(dices, smallest_ml) -> None:
    smallest = lesions(dices).smallest_followed
    assert (None if smallest is None else smallest.drawn_ml) == smallest_ml


def test_an_evaluation_is_read_in_order_of_size_and_only_by_its_own_weights(tmp_path) -> None:
    rows = [
        {"drawn_ml": ml, "found_ml": 2 * ml, "diameter_mm": 10 + ml, "dice": {"whole": 0.5}} for ml in (3.0, 1.0, 2.0)
    ]
    evaluation = {"weights": {"vcm.safetensors": "a"}, "sections": {"adherence": {"subjects": rows}}}
    assert [lesion.drawn_ml for lesion in read_calibration(evaluation).lesions] == [1.0, 2.0, 3.0]
    assert load_calibration(tmp_path, {}) is None
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert load_calibration(tmp_path, {"vcm.safetensors": "a"}) is not None
    assert load_calibration(tmp_path, {"vcm.safetensors": "b"}) is None


def test_an_evaluation_without_subjects_has_no_lesions() -> None:
    assert read_calibration({"sections": {}}) == Calibration(())
    judged = {"tumor_dice_originals": {"value": 0.7}, "tumor_dice_round_trip": {"value": 0.6}}
    assert read_calibration({"sections": {"autoencoder": judged}}).ceilings == (0.7, 0.6)
