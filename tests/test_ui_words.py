"""Sentences from numbers: plain, right at the edges, and never markup of a user's."""

import pytest

from vcm.ui import words
from vcm.weights.calibration import Calibration, Lesion

NOTHING = {"whole": 0.0, "core": 0.0, "enhancing": 0.0}


def tumor_adherence(whole, found_whole=12.0):
    return {
        "tumor": {
            "drawn_ml": {"whole": 14.0, "core": 6.0, "enhancing": 0.0},
            "controlled": {
                "dice": {"whole": whole, "core": 0.0, "enhancing": None},
                "found_ml": {"whole": found_whole, "core": 0.0, "enhancing": 0.0},
            },
            "uncontrolled": {"dice": {"whole": 0.02, "core": 0.0, "enhancing": None}, "found_ml": NOTHING},
        }
    }


@pytest.mark.parametrize(("value", "text"), [(0.2, "1 s"), (8.4, "8 s"), (99.4, "99 s"), (125, "2 min 5 s")])
def test_durations_read_as_people_say_them(value, text):
    assert words.seconds(value) == text


@pytest.mark.parametrize(
    ("whole", "verdict"),
    [
        (0.91, "follows the drawing closely"),
        (0.7, "follows the drawing</strong>"),
        (0.4, "follows the drawing in part"),
        (0.0, "hardly follows the drawing"),
    ],
)
def test_the_verdict_follows_the_overlap_and_names_the_floor(whole, verdict):
    text = words.adherence(tumor_adherence(whole))
    assert verdict in text
    assert "the same noise scores 0.02" in text


def test_a_lesion_that_was_not_found_scores_zero_and_one_that_was_not_drawn_has_no_score():
    text = words.adherence(tumor_adherence(0.5))
    assert text.count("not drawn") == 1
    assert "nan" not in text.lower()


def test_an_empty_tumor_map_is_judged_by_what_was_found():
    assert "none was found" in words.adherence(tumor_adherence(None, found_whole=0.0))
    assert "2.5 ml were found" in words.adherence(tumor_adherence(None, found_whole=2.5))


def test_a_run_without_comparison_names_no_floor():
    measured = tumor_adherence(0.9)
    del measured["tumor"]["uncontrolled"]
    assert "same noise" not in words.adherence(measured)


def test_anatomy_has_a_row_for_each_label():
    text = words.adherence({"anatomy": {"controlled": {"dice": {"gray matter": 0.8, "ventricles": None}}}})
    assert "Gray matter" in text
    assert "not drawn" in text


def test_what_cannot_be_measured_says_so():
    assert "no segmenter" in words.adherence(None)
    assert "Not applicable" in words.nothing_measured()


def test_every_text_is_escaped_and_no_note_is_told_twice():
    text = words.status("<b>x</b>", ["<i>", "<i>"], kind="error")
    assert "<b>" not in text
    assert text.count("&lt;i&gt;") == 1
    assert 'role="alert"' in text
    assert words.note("<b>") == '<p class="note">&lt;b&gt;</p>'


def test_only_a_run_under_way_says_that_it_is_running():
    assert words.RUNNING in words.progress(1, 20, None)
    assert words.RUNNING in words.status("Waiting", kind="running")
    assert words.RUNNING not in words.not_started()
    assert words.RUNNING not in words.status("Ready")
    assert words.RUNNING in words.live(8)
    assert words.RUNNING not in words.live(8, 1.4)
    assert "8 steps in 1.4 s" in words.live(8, 1.4)


def test_the_last_step_announces_the_decoding():
    assert "Step 19 of 20" in words.progress(19, 20, 1.0)
    assert "Decoding" in words.progress(20, 20, 1.0)


@pytest.mark.parametrize(("model", "origin"), [("mini", "simulated"), ("brainldm", "UK Biobank"), ("tiny", "research")])
def test_the_limits_name_what_the_model_has_learned_from(model, origin):
    assert origin in words.limits(model)
    assert words.limits(model).endswith("for research and teaching only, never for a diagnosis.")
    assert words.limits(model).count(".") == 1


def test_what_the_judge_itself_reaches_stands_beside_the_overlap():
    lesion = Lesion(drawn_ml=9.0, found_ml=9.0, diameter_mm=20.0, dice=0.5)
    told = words.ceilings(Calibration((lesion,), (0.7, 0.6)))
    assert "over 1 test subjects" in told
    assert "0.70 on the simulated scans" in told
    assert "0.60 after" in told
    assert words.ceilings(None) == words.ceilings(Calibration((lesion,))) == ""


def test_a_tumor_that_the_model_is_likely_to_leave_out_is_said_to_be_too_small():
    def calibration(*dices: float) -> Calibration:
        return Calibration(tuple(Lesion(10.0 * ml, 5.0, 20.0, dice) for ml, dice in enumerate(dices, start=1)))

    limit, told = words.too_small(calibration(0, 0, 0.9, 0.9, 0.9, 0.9, 0.9))
    assert limit == 30.0
    assert "less than 30 ml" in told
    limit, told = words.too_small(calibration(0, 0, 0.9, 0, 0))
    assert limit == 30.0
    assert "No test tumor below 30 ml" in told
    assert words.too_small(calibration(0, 0)) is None
    assert words.too_small(None) is None
