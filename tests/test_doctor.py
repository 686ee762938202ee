"""The doctor names what is here, and notices a step that comes out otherwise."""

import json
import shutil

import pytest

from vcm.cli.doctor import STEP_FILE, check_step, examine, record_step
from vcm.pipeline import Pipeline


@pytest.fixture
def folder(tiny_folder, tmp_path):
    copy = shutil.copytree(tiny_folder, tmp_path / "model")
    record_step(copy)
    return copy


def test_the_report_names_versions_device_weights_and_the_verified_step(folder):
    findings = {finding.subject: finding for finding in examine(folder, device="cpu")}
    assert {"vcm-studio", "torch", "processor", "accelerators", "vcm.safetensors"} <= findings.keys()
    assert findings["device"].found == "cpu"
    assert all(finding.healthy for finding in findings.values())
    assert "as stored" in findings["verified step"].found


@pytest.mark.parametrize("part", ["features", "epsilon", "eps_scale", "eps_shift"])
def test_a_step_that_comes_out_otherwise_is_noticed(folder, part):
    stored = json.loads((folder / STEP_FILE).read_text())
    stored[part][3] += 0.1 * max(map(abs, stored[part]))
    (folder / STEP_FILE).write_text(json.dumps(stored))
    finding = check_step(Pipeline.from_pretrained(folder, device="cpu"), folder)
    assert not finding.healthy
    assert "not as stored" in finding.found


@pytest.mark.parametrize("text", [None, "", "[]", '{"epsilon": [1]}', '{"features": [], "epsilon": [], "x": 1}'])
def test_a_missing_or_damaged_stored_step_is_said(folder, text):
    (folder / STEP_FILE).unlink()
    if text is not None:
        (folder / STEP_FILE).write_text(text)
    finding = check_step(Pipeline.from_pretrained(folder, device="cpu"), folder)
    assert not finding.healthy
    assert "missing or damaged" in finding.found
