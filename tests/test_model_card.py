"""The model card: every figure with its interval and count, verdicts computed and not claimed, files as they are."""

import copy
import math
from pathlib import Path

import pytest
import torch
from judged import estimate, evaluation, folder
from safetensors.torch import load_file

from vcm.research.report.model_card import (
    CARD_FILE,
    TEMPLATE_NOTICE,
    Figure,
    Goal,
    count_parameters,
    summarize_goals,
    write_model_card,
)
from vcm.train.record import begin_run, record_run
from vcm.weights.checkpoint import CheckpointError, hash_weights, write_sums
from vcm.weights.segmenter import load_segmenter

__all__ = ["evaluation", "folder"]  # fixtures

ROOT = Path(__file__).parent.parent
GOALS = 11


def row(card: str, name: str) -> list[str]:
    """The cells of the first row of the card that begins with a name."""
    line = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_figure_stands_beside_its_interval_count_goal_and_verdict(folder, evaluation):
    path = write_model_card(folder, evaluation)
    assert path == folder / CARD_FILE
    card = path.read_text()
    psnr = row(card, "Autoencoder: PSNR, whole volume")
    assert psnr[1:] == ["29.12 dB [28.50, 29.60]", "32", "at least 26 dB", "reached"]
    name = "Mean absolute change further than 10 mm from the tumor"
    assert row(card, name)[1:] == ["0.0123 [0.0100, 0.0150]", "32", "at most 0.03", "reached"]
    assert row(card, "Brain volume, asked against measured: slope")[2:] == ["128", "0.7 to 1.3", "reached"]
    assert row(card, "Autoencoder: PSNR, inside the head")[3:] == ["", ""]


def test_a_goal_missed_by_a_hair_is_not_reached_whatever_rounding_shows(folder, evaluation):
    card = write_model_card(folder, evaluation).read_text()
    missed = row(card, "Whole-tumor Dice, lesions from 12 mm")
    assert missed[1:] == ["0.750 [0.700, 0.790]", "25", "at least 0.75", "**not reached**"]
    assert f"{GOALS - 1} of {GOALS} goals are reached. Not reached: Whole-tumor Dice, lesions from 12 mm." in card
    better = copy.deepcopy(evaluation)
    better["sections"]["adherence"]["whole_tumor_dice"]["value"] = 0.75
    card = write_model_card(folder, better).read_text()
    assert f"{GOALS} of {GOALS} goals are reached." in card
    assert "ot reached" not in card


def test_what_could_not_be_measured_is_not_reached(folder, evaluation):
    evaluation["sections"]["priors"]["brain_volume"] = {"correlation": estimate(None), "slope": estimate(None)}
    card = write_model_card(folder, evaluation).read_text()
    cells = row(card, "Brain volume, asked against measured: slope")
    assert cells[1] == "could not be measured"
    assert cells[4] == "**not reached**"
    assert row(card, "36 mm and more") == ["36 mm and more", "could not be measured", "0"]


def test_what_conditions_gain_over_their_yardsticks_is_among_the_figures(folder, evaluation):
    evaluation["plan"]["modality_subjects"] = 32
    evaluation["sections"]["modalities"] = {
        "slice_mm": 6.0,
        "rows": {},
        "gains": {"lowres, 8 mm": estimate(2.104, [2.0, 2.2]), "t2 + flair": estimate(-2.01)},
        "notes": ["One row was measured on a Sunday."],
    }
    card = write_model_card(folder, evaluation).read_text()
    gain = row(card, "From slices of 8 mm: PSNR above cubic interpolation")
    assert gain[1:] == ["2.10 dB [2.00, 2.20]", "32", "at least 2 dB", "reached"]
    assert row(card, "From T2 and FLAIR: PSNR against a U-Net regressor's (below 0: worse)")[3:] == [
        "at least -2 dB",
        "**not reached**",
    ]
    assert "From slices of 6 mm" not in card
    assert "\nOne row was measured on a Sunday.\n" in card
    assert summarize_goals(evaluation, "mini").count("\n| ") == 1 + GOALS + 2


@pytest.mark.parametrize(
    ("goal", "told", "reached", "missed"),
    [
        (Goal(0.9), "at least 0.9", (0.9, 2.0), (0.8999, -math.inf)),
        (Goal(most=0.1), "at most 0.1", (0.1, -1.0), (0.1001, math.nan)),
        (Goal(0.7, 1.3), "0.7 to 1.3", (0.7, 1.3), (0.69, 1.31)),
    ],
)
def test_a_goal_holds_up_to_its_bounds(goal, told, reached, missed):
    assert str(goal) == told
    assert all(goal.is_reached(value) for value in reached)
    assert not any(goal.is_reached(value) for value in missed)
    assert Figure("x", {"value": missed[0], "interval": None, "count": 1}, goal).verdict == "**not reached**"


def test_beneath_a_table_stand_the_command_that_makes_it_and_the_weights_that_it_is_of(folder, evaluation):
    sums = [f"{Path(name).stem} `{digest[:12]}`" for name, digest in evaluation["weights"].items() if "safe" in name]
    lines = [line for line in write_model_card(folder, evaluation).read_text().splitlines() if line.startswith("<sub>")]
    assert len(lines) == 1
    assert sums
    for line in (*lines, summarize_goals(evaluation, "tiny").splitlines()[-1]):
        assert line.startswith("<sub>`vcm evaluate --model tiny --out evaluation`; seeds from 200000, ")
        assert line.endswith(f"; SHA-256 of the weights: {', '.join(sums)}.</sub>")


def test_the_header_can_be_read_by_the_hub(folder, evaluation):
    card = write_model_card(folder, evaluation).read_text()
    _, header, body = card.split("---\n", 2)
    lines = header.splitlines()
    assert lines[0] == "license: apache-2.0"
    assert lines[1] == "tags:"
    assert all(line.startswith("  - ") for line in lines[2:])
    assert body.lstrip().startswith("# tiny: ")


def test_sizes_and_parameters_are_read_from_the_files(folder, evaluation, tiny_model):
    card = write_model_card(folder, evaluation).read_text()
    for name, module in (
        ("autoencoder.safetensors", tiny_model.backbone.autoencoder),
        ("diffusion.safetensors", tiny_model.backbone.diffusion),
        ("vcm.safetensors", tiny_model.adapter),
    ):
        size, parameters = row(card, f"`{name}`")[1:3]
        assert size == f"{(folder / name).stat().st_size / 1e6:.2f} MB"
        assert int(parameters.replace(",", "")) == sum(tensor.numel() for tensor in module.state_dict().values())
    # The whitening maps lie in the file of the diffusion network, and are no parameters.
    stored = sum(tensor.numel() for tensor in load_file(folder / "diffusion.safetensors").values())
    assert count_parameters(folder / "diffusion.safetensors") < stored


def test_the_card_says_what_the_model_is_not_who_saw_what_and_whose_template_it_is(folder, evaluation):
    card = write_model_card(folder, evaluation).read_text()
    text = " ".join(card.replace("\n> ", " ").split())
    assert "learned from simulated subjects made from one template. It is not clinical" in text
    assert row(card, "diffusion network")[1] == "10000 to 10499"
    assert row(card, "diffusion network")[2:] == ["tumor-free only", "is frozen afterwards"]
    assert row(card, "segmenter")[3] == "only ever measures"
    assert "vcm evaluate --model tiny --out evaluation" in card
    assert "vcm train diffusion --samples 500 --steps 3000 --out model" in card
    assert "vcm train diffusion --samples 400 --steps 2000 --from-weights --out model" in card
    assert TEMPLATE_NOTICE in text
    readme = " ".join((ROOT / "README.md").read_text().replace("\n> ", " ").split())
    assert TEMPLATE_NOTICE in readme


def test_a_card_of_a_vcm_that_learned_from_own_data_does_not_say_that_there_is_no_patient_in_them(folder, evaluation):
    assert "There is no patient in the data." in " ".join(write_model_card(folder, evaluation).read_text().split())
    begin_run(folder, "vcm", folder / "vcm", from_weights=True)
    record_run(folder, "vcm", folder / "vcm", steps=700, subjects=9, own_data=True)
    write_sums(folder)
    card = write_model_card(folder, evaluation).read_text()
    assert "no patient" not in card
    assert "its VCM also from data of its maker's own" in card
    own = [line for line in card.splitlines() if line.startswith("| VCM |")][1]
    assert own == "| VCM | none | 9 of its maker's own | brings the tumor |"
    assert "vcm train vcm --steps 700 --from-weights --data my_data --out model" in card


def test_an_evaluation_by_another_segmenter_is_refused(folder, evaluation):
    segmenter = load_segmenter(folder, torch.device("cpu"))
    evaluation["segmenter"] = hash_weights(segmenter)
    write_model_card(folder, evaluation)
    evaluation["segmenter"] = "0" * 64
    with pytest.raises(ValueError, match="by another segmenter than the folder's"):
        write_model_card(folder, evaluation)


def test_the_command_of_another_plan_has_its_options(folder, evaluation):
    evaluation["plan"] |= {"subjects": 4, "first_seed": 300_000}
    card = write_model_card(folder, evaluation).read_text()
    assert "\nvcm evaluate --model tiny --out evaluation --subjects 4 --seed 300000\n" in card


def test_an_unfinished_evaluation_and_one_of_other_weights_are_refused(folder, evaluation):
    unfinished = {**evaluation, "sections": {"autoencoder": evaluation["sections"]["autoencoder"]}}
    with pytest.raises(ValueError, match="lacks the section 'adherence'"):
        write_model_card(folder, unfinished)
    other = {**evaluation, "weights": {"vcm.safetensors": "0" * 64}}
    with pytest.raises(ValueError, match=r"of another vcm\.safetensors than the folder's"):
        write_model_card(folder, other)
    assert not (folder / CARD_FILE).exists()


def test_a_damaged_model_gets_no_card(folder, evaluation):
    weights = folder / "segmenter.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"segmenter\.safetensors is damaged"):
        write_model_card(folder, evaluation)
    with pytest.raises(CheckpointError, match="damaged or not a safetensors file"):
        count_parameters(weights)


def test_every_table_ends_with_an_empty_line(folder, evaluation):
    lines = write_model_card(folder, evaluation).read_text().splitlines()
    ends = [below for line, below in zip(lines, [*lines[1:], ""], strict=True) if line.startswith("|")]
    assert len(ends) > 40
    assert all(below == "" or below.startswith("|") for below in ends)
