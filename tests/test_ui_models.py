"""The page says which model is loaded and how to get the published one; a start without its weights is no failure."""

import argparse
from pathlib import Path

import gradio as gr
import pytest
from hub_stand_in import serve_hub, turn_to
from small_bundle import build_small_config, build_small_model

import app
from vcm.pipeline import Pipeline
from vcm.ui.app import build_app
from vcm.ui.sections.models import render_models
from vcm.weights import cost, published
from vcm.weights.checkpoint import LoadedModel
from vcm.weights.pretrained import HOW_TO_GET_PUBLISHED


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VCM_WEIGHTS", raising=False)


def texts(blocks: gr.Blocks) -> str:
    return "\n".join(str(block.value) for block in blocks.blocks.values() if isinstance(block, gr.HTML))


def test_without_weights_the_published_model_is_grayed_out_with_the_way_to_get_them(tiny_model: LoadedModel) -> None:
    html = render_models(Pipeline(tiny_model))
    assert '<li aria-current="true">tiny</li><li aria-disabled="true">brainldm</li>' in html
    assert HOW_TO_GET_PUBLISHED in html


def test_with_weights_the_way_to_start_it_is_said(tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCM_WEIGHTS", "vcm.pt")
    html = render_models(Pipeline(tiny_model))
    assert "<li>brainldm</li>" in html
    assert "--model brainldm" in html


def test_what_went_wrong_is_on_the_page(tiny_model: LoadedModel, tmp_path: Path) -> None:
    page = texts(build_app(Pipeline(tiny_model), tmp_path, problem="model.pt could not be fetched <here>."))
    assert "model.pt could not be fetched &lt;here&gt;." in page
    assert '<li aria-disabled="true">brainldm</li>' in page


def test_the_page_of_the_published_model_says_what_a_run_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "brainldm_config", build_small_config)
    page = texts(build_app(Pipeline(build_small_model(build_small_config())), tmp_path))
    assert '<li aria-current="true">brainldm</li>' in page
    assert "On a CPU this model takes about 22 minutes for 20 steps and the comparison" in page
    assert "Takes about 3" in page
    assert "Draw a label map" in page
    assert "Draw a tumor" not in page


def test_the_app_starts_on_the_embedded_model_where_the_published_one_cannot_be_had() -> None:
    pipeline, problem = app.load(argparse.Namespace(model="brainldm", device="cpu", vcm_weights=None))
    assert pipeline.config.name == "mini"
    assert problem == HOW_TO_GET_PUBLISHED


@pytest.mark.parametrize("fault", ["missing", "error", "stuck", "unreachable"])
def test_the_app_starts_on_the_embedded_model_where_the_hub_fails(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    weights = tmp_path / "vcm.pt"
    weights.write_bytes(b"never read")
    with serve_hub() as hub:
        hub.files[f"{published.SOURCE.repository}/models/autoencoder.pt"] = bytes(1000)
        hub.faults["autoencoder.pt"] = fault
        if fault == "unreachable":
            hub.address = "http://127.0.0.1:9"
        turn_to(hub, monkeypatch, tmp_path)
        pipeline, problem = app.load(argparse.Namespace(model="brainldm", device="cpu", vcm_weights=str(weights)))
    assert pipeline.config.name == "mini"
    assert problem is not None
    assert problem.startswith("autoencoder.pt could not be fetched from the hub: ")


@pytest.mark.parametrize(("model", "device"), [("nowhere", "cpu"), ("brainldm", "abacus"), ("mini", "abacus")])
def test_any_other_mistake_ends_in_one_line(model: str, device: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        app.load(argparse.Namespace(model=model, device=device, vcm_weights=None))
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith("app.py: There is no such")
    assert told.count("\n") == 1
