"""A modality is one class: a map of vessels, registered here, is offered everywhere, trained and sampled."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from numpy.typing import NDArray
from tiny import build_tiny_model

from vcm.cli import main
from vcm.data import simulate
from vcm.modalities.base import Subject
from vcm.modalities.labels import LabelModality
from vcm.modalities.registry import get_modality, list_trainable, register, unregister
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.research.evaluate.modalities import list_combinations
from vcm.train.foreign import choose_adapter
from vcm.train.loop import LoopConfig
from vcm.train.vcm import VCMRecipe, train_vcm
from vcm.ui.app import build_app
from vcm.ui.palette import build_palette, label_modalities
from vcm.volume import Volume
from vcm.weights.checkpoint import LoadedModel, save_model


@dataclass(frozen=True)
class VesselModality(LabelModality):
    """Where the vessels are; the fluid around the brain stands for them."""

    def find_labels(self, subject: Subject) -> NDArray[np.uint8]:
        return (subject.anatomy == simulate.CSF).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def vessels() -> Iterator[None]:
    register(
        VesselModality(
            name="vessels",
            title="Vessels",
            help="A label map: 1 vessel.",
            channels=1,
            label_names=("vessel",),
            colors=("#ff0000",),
        )
    )
    yield
    unregister("vessels")


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return build_tiny_model(GRID, {"tumor": 3, "vessels": 1})


@pytest.fixture(scope="module")
def tree() -> Volume:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[8:12, 8:24, 8:12] = 1
    return Volume(labels, GRID.affine)


def test_it_is_a_condition_of_a_request_and_changes_the_volume(model, tree):
    result = Pipeline(model)(GenerationRequest({"vessels": tree}, num_inference_steps=2))
    assert result.recipe["conditions"].keys() == {"vessels"}
    assert not np.array_equal(result.controlled.array, result.uncontrolled.array)


def test_it_is_an_option_of_the_command_line(model, tree, tmp_path):
    save_model(tmp_path / "model", model.config, model.backbone, model.adapter)
    tree.save(tmp_path / "tree.nii.gz")
    asked = ["--condition", f"vessels={tmp_path / 'tree.nii.gz'}", "--model", str(tmp_path / "model"), "--steps", "2"]
    with pytest.raises(SystemExit) as ended:
        main(["generate", *asked, "--device", "cpu", "--out", str(tmp_path / "out")])
    assert ended.value.code == 0
    assert (tmp_path / "out" / "condition_vessels.nii.gz").is_file()


def test_it_is_a_checkbox_and_an_upload_of_the_page_and_a_field_of_http(model):
    app = build_app(Pipeline(model))
    components = {each["props"].get("elem_id"): each for each in app.get_config_file()["components"]}
    assert components["use-vessels"]["type"] == "checkbox"
    assert components["use-vessels"]["props"]["label"] == "Follow the vessels map"
    assert "upload-vessels" in components
    (endpoint,) = (each for name, each in app.get_api_info()["named_endpoints"].items() if name == "/generate")
    fields = [parameter["parameter_name"] for parameter in endpoint["parameters"]]
    assert fields.index("semantic") < fields.index("vessels") < fields.index("guidance_scale")


def test_it_can_be_drawn_on_the_page_where_it_is_the_only_map(model):
    alone = Pipeline(build_tiny_model(GRID, {"vessels": 1}))
    palette = build_palette(alone, *label_modalities(alone))
    assert [label.name for label in palette.labels] == ["Vessel"]
    assert (palette.hint, palette.layered_brush) == ("", None)


def test_an_evaluation_has_rows_for_it():
    subject = simulate.simulate_subject(200_000, contrasts=())
    combinations = list_combinations(("tumor", "vessels"))
    assert combinations == [("tumor",), ("vessels",), ("tumor", "vessels")]
    shown = get_modality("vessels").show(subject)
    assert np.array_equal(shown.array, subject.anatomy == simulate.CSF)
    assert np.array_equal(shown.affine, simulate.AFFINE)


def test_a_vcm_learns_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr("vcm.train.vcm.simulated_cohort", CoarseCohorts(make_coarse_subjects(("t1", "t2", "flair"))))
    monkeypatch.setattr("vcm.train.vcm.HELD_OUT", 2)
    assert "vessels" in list_trainable()
    config = choose_adapter(model.config, ["vessels"])
    assert config.condition_channels == {"vessels": 1}
    loop = LoopConfig(steps=3, learning_rate=1e-3, warmup_steps=1, save_every=10, validate_every=10)
    trained = train_vcm(tmp_path, model.backbone, config, recipe=VCMRecipe(subjects=2, loop=loop, passes=1))
    assert any(parameter.abs().sum() > 0 for parameter in trained.heads.scale.parameters())
