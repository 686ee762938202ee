"""The fault table, by real injection: what fails in mid-run, a disk that is full, a process that is stopped.

Each fault is followed by a run that works. The neighbours in `test_faults.py` are the wrong files and settings.
"""

import errno
import itertools
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import gradio as gr
import httpx
import numpy as np
import pytest
import spaces
import torch
from breaking import FAULTS, broken
from forked_gpu import ForkedGPU
from hub_stand_in import HubStandIn, serve_hub, turn_to
from safetensors.torch import load_file, save_file
from small_bundle import build_small_config, build_small_model, published_files
from test_faults import call
from tiny import build_tiny_model
from visitor import Visitor, text_of

import app as app_file
from vcm.cli import main
from vcm.data.cohort import simulated_cohort, write_json
from vcm.errors import is_out_of_memory
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.ui.app import build_app, launch_options
from vcm.ui.server.failures import OUT_OF_MEMORY, UNEXPECTED
from vcm.volume import Volume, VolumeError
from vcm.weights import cost, published
from vcm.weights.checkpoint import BRAIN_FILE, write_sums
from vcm.whole_files import reserve, write_whole

ROOT = Path(__file__).parent.parent
FILE_LIMIT = 6000  # bytes: less than any volume of the tiny model
PATIENCE = 180
STEPS = 6
SEEDS = itertools.count(1000)
"""Of runs that must not be remembered from another test."""


def launch(pipeline: Pipeline, folder: Path) -> gr.Blocks:
    blocks = build_app(pipeline, folder)
    blocks.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options())
    return blocks


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    """A tiny model of its own, since it is broken."""
    return Pipeline(build_tiny_model())


@pytest.fixture(scope="module")
def app(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[gr.Blocks]:
    blocks = launch(pipeline, tmp_path_factory.mktemp("no-examples"))
    yield blocks
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[gr.Blocks, Pipeline]]:
    """The app whose worker is a process of its own, as on a Space, and the model behind it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spaces, "GPU", ForkedGPU())
        pipeline = Pipeline(build_tiny_model())
        blocks = launch(pipeline, tmp_path_factory.mktemp("no-examples"))
    yield blocks, pipeline
    blocks.close(verbose=False)


@pytest.fixture
def mask(tiny_config, tmp_path: Path) -> Path:
    labels = np.zeros(tiny_config.grid.shape, np.uint8)
    labels[3:8, 5:12, 4:9] = 2
    path = tmp_path / "mask.nii.gz"
    Volume(labels, tiny_config.grid.affine).save(path)
    return path


@pytest.fixture
def vcm(capsys) -> Callable[..., tuple[int, str]]:
    """Run `vcm` with arguments; returns the exit code and what stands on stderr."""

    def run(*arguments: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, capsys.readouterr().err

    return run


def command(*arguments: object, limit: int | None = None) -> subprocess.Popen[str]:
    """Start a command in a process of its own, where no file may grow beyond a limit."""

    def shrink() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=shrink,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for a command; returns its exit code and what it wrote on stderr."""
    _, told = process.communicate(timeout=PATIENCE)
    return process.returncode, told


def generate_on_page(url: str, steps: int = STEPS) -> dict:
    """Press Generate, and return what the page shows at the end."""
    visitor = Visitor(url)
    run = visitor.after(visitor.find("generate", "click"))
    *_, last = visitor.follow(run, visitor.join(run, {"steps": steps, "seed": next(SEEDS)}))
    return last


def expect_a_run_that_works(url: str) -> None:
    told = text_of(generate_on_page(url)["status"])
    assert "Done" in told or "Shown at once" in told
    event, data = call(url)
    assert event == "complete"
    assert data[0]


# Row 26: the machine fails in mid-run


@pytest.mark.parametrize("fault", FAULTS)
def test_a_machine_that_fails_in_mid_run_is_said_in_one_sentence_by_page_and_http(forked, fault: str) -> None:
    blocks, pipeline = forked
    sentence = OUT_OF_MEMORY if fault == "out of memory" else UNEXPECTED
    with broken(pipeline.backbone.diffusion, FAULTS[fault]):
        shown = generate_on_page(blocks.local_url)
        event, data = call(blocks.local_url, *[None] * 8, 1.0, STEPS, next(SEEDS))
    assert text_of(shown["status"]).strip() == sentence
    assert "editor" not in shown  # the drawing stays as it was
    assert (event, data["error"]) == ("error", sentence)
    expect_a_run_that_works(blocks.local_url)


@pytest.mark.parametrize("fault", ["out of memory", "device error"])
def test_a_machine_that_fails_in_mid_run_costs_a_program_that_run_only(pipeline: Pipeline, fault: str) -> None:
    request = GenerationRequest(num_inference_steps=STEPS, seed=next(SEEDS))
    with broken(pipeline.backbone.diffusion, FAULTS[fault]), pytest.raises(RuntimeError) as caught:
        pipeline(request)
    assert is_out_of_memory(caught.value) == (fault == "out of memory")
    again, alone = pipeline(request), Pipeline(build_tiny_model())(request)
    np.testing.assert_array_equal(again.controlled.array, alone.controlled.array)


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        ("out of memory", 1, "vcm: There is not enough memory for this: choose a smaller model, or close other"),
        ("device error", 1, "vcm: The model stopped unexpectedly: run the command again with vcm --verbose to see why"),
        ("dead worker", -signal.SIGKILL, ""),
    ],
)
def test_a_machine_that_fails_in_mid_run_costs_a_command_that_run_only(
    tiny_folder: Path, mask: Path, tmp_path: Path, vcm, fault: str, code: int, said: str
) -> None:
    out = tmp_path / "out"
    arguments = ["generate", "--model", tiny_folder, "--condition", f"tumor={mask}", "--steps", STEPS, "--out", out]
    ended, told = ends(command(ROOT / "tests" / "breaking.py", fault, *arguments))
    assert ended == code
    assert told.startswith(said)
    assert len(told.splitlines()) == bool(said)
    assert list(out.iterdir()) == []
    assert vcm(*arguments) == (0, "")


# Row 24: a full queue


def test_a_full_queue_is_a_clear_refusal_and_those_who_wait_get_their_runs(
    pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vcm.ui.app._MOST_WAITING", 2)
    blocks = launch(pipeline, tmp_path)
    go_on = False

    def hold(*_: object) -> None:
        while not go_on:
            time.sleep(0.02)

    hook = pipeline.backbone.diffusion.register_forward_pre_hook(hold)
    try:
        visitors = [Visitor(blocks.local_url) for _ in range(8)]
        run = visitors[0].after(visitors[0].find("generate", "click"))
        waiting, refused = [], []
        for visitor in visitors:
            joined = visitor.join(run, {"steps": 2, "seed": next(SEEDS)})
            (waiting if joined.status_code == 200 else refused).append((visitor, joined))
            time.sleep(0.3)
        assert len(waiting) == 3  # one runs, two wait
        for visitor, joined in refused:
            with pytest.raises(RuntimeError, match="Queue is full"):
                list(visitor.follow(run, joined))
        with pytest.raises(httpx.HTTPStatusError, match="503"):
            call(blocks.local_url)
        go_on = True
        for visitor, joined in waiting:
            *_, last = visitor.follow(run, joined)
            assert "Done" in text_of(last["status"])
        expect_a_run_that_works(blocks.local_url)
    finally:
        go_on = True
        hook.remove()
        blocks.close(verbose=False)


# Row 21: what is no file of this visitor


@pytest.mark.parametrize("wrong", ["tumor.nii.gz", 7, ["a", "b"], {"path": 7}, {"url": "http://127.0.0.1:9/a.nii"}, {}])
def test_a_map_of_the_wrong_type_is_refused_by_http(app: gr.Blocks, wrong: object) -> None:
    event, data = call(app.local_url, wrong)
    assert event == "error"
    told = str(data and data["error"])
    assert "Traceback" not in told
    assert "\n" not in told
    assert str(ROOT) not in told


@pytest.mark.parametrize("drop", ["upload-tumor", "upload-recipe"])
def test_a_forged_path_on_the_page_is_neither_read_nor_deleted(
    app: gr.Blocks, mask: Path, tmp_path: Path, drop: str
) -> None:
    """What is dropped on the page is deleted once it is read, so a path to elsewhere must not get that far."""
    visitor = Visitor(app.local_url)
    for path in (mask, "/etc/passwd", f"{mask.parent}/../{mask.parent.name}/{mask.name}"):
        with pytest.raises(RuntimeError):
            visitor.call(drop, "upload", {drop: {"path": str(path), "meta": {"_type": "gradio.FileData"}}})
    assert mask.exists()
    assert Path("/etc/passwd").exists()


@pytest.mark.parametrize("drop", ["upload-tumor", "upload-recipe"])
def test_a_linked_file_on_the_page_is_not_fetched(app: gr.Blocks, drop: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        asked: list[object] = []
        patch.setattr(httpx, "AsyncClient", lambda *a, **k: asked.append(a) or 1 / 0)
        visitor = Visitor(app.local_url)
        url = "http://127.0.0.1:9/mask.nii.gz"
        for file in ({"path": url}, {"path": "mask.nii.gz", "url": url}):
            with pytest.raises(RuntimeError):
                visitor.call(drop, "upload", {drop: {**file, "meta": {"_type": "gradio.FileData"}}})
        with pytest.raises(RuntimeError, match="Links are not followed"):
            visitor.call(drop, "upload", {drop: {"path": url, "meta": {"_type": "gradio.FileData"}}})
        event, data = call(app.local_url, {"path": url, "meta": {"_type": "gradio.FileData"}})
        assert (event, data["error"]) == ("error", "Links are not followed: please upload the file itself.")
    assert not asked


# Row 14: a tumor outside the brain


@pytest.mark.parametrize("door", ["command line", "page", "http"])
def test_a_tumor_outside_the_brain_is_taken_and_said(tiny_folder: Path, tmp_path: Path, capsys, door: str) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    pipeline = Pipeline.from_pretrained(folder, device="cpu")
    grid = pipeline.grid
    brain = np.zeros(grid.shape, np.uint8)
    brain[8:, :, :] = 1
    Volume(brain, grid.affine).save(folder / BRAIN_FILE)
    write_sums(folder)
    labels = np.zeros(grid.shape, np.uint8)
    labels[4:12, 6:12, 4:8] = 2  # half of it outside
    mask = tmp_path / "mask.nii.gz"
    Volume(labels, grid.affine).save(mask)
    said = "outside the brain"
    if door == "command line":
        arguments = ["generate", "--model", folder, "--condition", f"tumor={mask}", "--steps", 1]
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in [*arguments, "--out", tmp_path / "out"]])
        assert ended.value.code == 0
        assert said in capsys.readouterr().out
        return
    blocks = launch(Pipeline.from_pretrained(folder, device="cpu"), tmp_path / "none")
    try:
        visitor = Visitor(blocks.local_url)
        file = visitor.upload("mask.nii.gz", mask.read_bytes())
        if door == "page":
            answer = visitor.call("upload-tumor", "upload", {"upload-tumor": file})
            assert said in text_of(answer["status"])
        else:
            event, data = call(blocks.local_url, file)
            assert event == "complete"
            assert "tumor" in data[1]["conditions"]
    finally:
        blocks.close(verbose=False)


# Row 28: weights, through the command line and where the app starts


class Malice:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self._folder),)


def _change(name: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / name)
        change(weights)
        save_file(weights, folder / name)
        write_sums(folder)  # honest sums, so that it is the content that is refused

    return damage


def _flip(folder: Path) -> None:
    content = bytearray((folder / "vcm.safetensors").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "vcm.safetensors").write_bytes(content)


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "vcm.safetensors").write_bytes(content) and None


def _cut(folder: Path) -> None:
    path = folder / "vcm.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    write_sums(folder)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a web page": (_write(b"<!DOCTYPE html><html></html>"), "vcm.safetensors is a web page"),
    "a pointer": (_write(b"version https://git-lfs.github.com/spec/v1\n"), "vcm.safetensors is only a pointer"),
    "nothing": (_write(b""), "vcm.safetensors is empty"),
    "truncated": (_cut, "vcm.safetensors is damaged"),
    "a flipped bit": (_flip, "vcm.safetensors is damaged"),
    "a missing weight": (_change("vcm.safetensors", lambda w: w.pop(min(w))), "vcm.safetensors lacks weight"),
    "an extra weight": (
        _change("vcm.safetensors", lambda w: w.update(stray=torch.zeros(1))),
        "vcm.safetensors has an unknown weight stray",
    ),
    "NaN inside": (
        _change("diffusion.safetensors", lambda w: w[max(w)].view(-1)[:1].fill_(float("nan"))),
        "diffusion.safetensors holds numbers that are not finite",
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_weights_end_the_command_and_the_start_of_the_app_in_one_line(
    tiny_folder: Path, tmp_path: Path, vcm, capsys, kind: str
) -> None:
    damage, said = DAMAGES[kind]
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    arguments = ("generate", "--model", folder, "--steps", 1, "--no-compare", "--out", tmp_path / "out")
    damage(folder)
    code, told = vcm(*arguments)
    with pytest.raises(SystemExit) as ended:
        app_file.load(Namespace(model=str(folder), device="cpu", vcm_weights=None))
    told_by_app = capsys.readouterr().err
    assert code == ended.value.code == 2
    for line in (told, told_by_app):
        assert said in line
        assert line.count("\n") == 1
        assert str(tmp_path) not in line
    assert not (tmp_path / "out").exists()
    shutil.rmtree(folder)
    shutil.copytree(tiny_folder, folder)
    assert vcm(*arguments) == (0, "")


@pytest.mark.parametrize("as_archive", [True, False])
def test_a_malicious_vcm_is_refused_by_the_command_and_not_executed(
    tiny_folder: Path, tmp_path: Path, vcm, as_archive: bool
) -> None:
    evil = tmp_path / "evil.pt"
    malice = {"weight": Malice(tmp_path / "executed")}
    if as_archive:
        torch.save(malice, evil)
    else:
        evil.write_bytes(pickle.dumps(malice))
    code, told = vcm("generate", "--model", tiny_folder, "--vcm-weights", evil, "--steps", 1, "--out", tmp_path / "out")
    assert code == 2
    assert told.startswith("vcm: evil.pt was not opened")
    assert told.count("\n") == 1
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "out").exists()


# Row 29: the hub, through the command line


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[HubStandIn, Path]]:
    """A hub with the published bundle, small, an empty cache, and the VCM beside it."""
    files = published_files(build_small_model(build_small_config()))
    weights = tmp_path / "vcm.pt"
    weights.write_bytes(files["vcm.pt"])
    with serve_hub() as hub:
        turn_to(hub, monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(published, "brainldm_config", build_small_config)
        monkeypatch.setattr(cost, "brainldm_config", build_small_config)
        for name in ("autoencoder.pt", "model.pt"):
            hub.files[f"{published.SOURCE.repository}/models/{name}"] = files[name]
        yield hub, weights


@pytest.mark.parametrize("fault", ["missing", "error", "stuck", "wrong", "page", "unreachable", "offline"])
def test_a_hub_that_fails_ends_the_command_in_one_line_and_the_next_works(
    hub: tuple[HubStandIn, Path], tmp_path: Path, vcm, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    stand_in, weights = hub
    arguments = ("generate", "--model", "brainldm", "--vcm-weights", weights, "--steps", 1, "--no-compare", "--yes")
    arguments += ("--device", "cpu", "--out", tmp_path / "out")
    with monkeypatch.context() as broken_hub:
        if fault == "offline":
            broken_hub.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        elif fault == "unreachable":
            stand_in.address, there = "http://127.0.0.1:9", stand_in.address
            turn_to(stand_in, broken_hub, tmp_path / "cache")
            stand_in.address = there
        else:
            stand_in.faults["autoencoder.pt"] = fault
        code, told = vcm(*arguments)
    assert code == 2
    assert told.startswith("vcm: autoencoder.pt ")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()
    stand_in.faults.clear()
    turn_to(stand_in, monkeypatch, tmp_path / "cache")
    assert vcm(*arguments) == (0, "")


# Row 30: a full disk, and a process that is stopped


def test_a_command_on_a_full_disk_says_so_and_leaves_nothing(tiny_folder: Path, tmp_path: Path, vcm) -> None:
    out = tmp_path / "out"
    arguments = ["generate", "--model", tiny_folder, "--steps", 1, "--out", out]
    code, told = ends(command("-m", "vcm", *arguments, limit=FILE_LIMIT))
    assert (code, told) == (2, "vcm: The volume could not be saved: File too large.\n")
    assert list(out.iterdir()) == []
    assert vcm(*arguments) == (0, "")


@pytest.mark.parametrize("door", ["page", "http"])
def test_a_full_disk_of_the_server_is_said_and_the_next_run_works(
    app: gr.Blocks, monkeypatch: pytest.MonkeyPatch, door: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as full:
        full.setattr("gzip.GzipFile.write", refuse)  # of the volumes that are offered
        if door == "page":
            shown = generate_on_page(app.local_url, steps=3)
            told = text_of(shown["status"])
        else:
            told = call(app.local_url, *[None] * 8, 1.0, 3, next(SEEDS))[1]["error"]
    assert "No space left on device" in told
    assert "/" not in told
    expect_a_run_that_works(app.local_url)


def test_a_save_on_a_full_disk_keeps_the_old_file(tmp_path: Path) -> None:
    """By the limit of this very process: what the system refuses, not what a test pretends."""
    old, new = Volume(np.ones((4, 4, 4), np.uint8), np.eye(4)), np.random.default_rng(0).random((24, 24, 24))
    old.save(tmp_path / "a.nii.gz")
    before = (tmp_path / "a.nii.gz").read_bytes()
    write_json(tmp_path / "a.json", {"a": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, hard))
    try:
        with pytest.raises(VolumeError, match="could not be saved: File too large"):
            Volume(new.astype(np.float32), np.eye(4)).save(tmp_path / "a.nii.gz")
        with pytest.raises(OSError, match="File too large"):
            write_json(tmp_path / "a.json", {"a": "x" * 2 * FILE_LIMIT})
        with pytest.raises(OSError, match="File too large"), write_whole(tmp_path / "state.pt") as file:
            torch.save({"weight": torch.zeros(FILE_LIMIT)}, file)
        (tmp_path / "memory.npy").touch()
        with pytest.raises(OSError, match="File too large"):
            reserve(tmp_path / "memory.npy", 2 * FILE_LIMIT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.nii.gz"]
    assert (tmp_path / "a.nii.gz").read_bytes() == before
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'


def test_a_failure_that_is_not_the_disks_is_not_blamed_on_it(tmp_path: Path) -> None:
    def fail() -> None:
        with write_whole(tmp_path / "file") as file:
            file.write(b"half")
            raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match="of another kind"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_cohort_that_the_disk_cannot_hold_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written to through memory would otherwise kill the process on a full disk."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        simulated_cohort(tmp_path, range(200_000, 200_002))
    assert not list(tmp_path.rglob("*.npy"))


@pytest.mark.long
def test_a_training_on_a_full_disk_says_so_and_goes_on_where_there_is_room(tmp_path: Path) -> None:
    train = [ROOT / "tests" / "breaking.py", "training", "train", "segmenter", "--out", tmp_path / "model"]
    code, told = ends(command(*train, limit=FILE_LIMIT))
    assert (code, told.splitlines()[-1]) == (2, "vcm: The system refused: File too large.")
    assert not list(tmp_path.rglob("*.part"))
    assert not list(tmp_path.rglob("state.pt"))
    code, told = ends(command(*train, "--resume"))
    assert code == 0, told
    assert (tmp_path / "model" / "segmenter.safetensors").exists()


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_training_that_is_stopped_resumes_to_the_same_weights(tmp_path: Path, how: signal.Signals) -> None:
    def train(folder: str, *more: str) -> subprocess.Popen[str]:
        script = ROOT / "tests" / "breaking.py"
        return command(script, "training", "train", "segmenter", "--out", tmp_path / folder, *more)

    whole = train("whole")
    stopped = train("stopped")
    wait_for(tmp_path / "stopped" / "runs" / "segmenter" / "state.pt", stopped)
    stopped.send_signal(how)
    code, told = ends(stopped)
    assert (code, told) == ((143, "vcm: Stopped.\n") if how == signal.SIGTERM else (-how, ""))
    assert not (tmp_path / "stopped" / "segmenter.safetensors").exists()
    code, told = ends(train("stopped", "--resume"))
    assert code == 0, told
    assert ends(whole)[0] == 0
    assert not list(tmp_path.rglob("*.part"))
    weights = [(tmp_path / folder / "segmenter.safetensors").read_bytes() for folder in ("whole", "stopped")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_a_command_that_is_stopped_in_mid_run_leaves_nothing_and_the_next_works(
    tiny_folder: Path, tmp_path: Path, vcm, how: signal.Signals
) -> None:
    out = tmp_path / "out"
    arguments = ["generate", "--model", tiny_folder, "--out", out]
    running = command("-m", "vcm", *arguments, "--steps", 1000)
    wait_for(out, running)  # made right before the first step
    time.sleep(1)
    running.send_signal(how)
    code, told = ends(running)
    assert (code, told) == ((143, "vcm: Stopped.\n") if how == signal.SIGTERM else (-how, ""))
    assert list(out.iterdir()) == []
    assert vcm(*arguments, "--steps", 2) == (0, "")


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
