"""Remove one guard at a time, in a copy of this folder, and see that a test notices. Prints a table.

    python tests/mutate_guards.py [WORD ...]

With words, only guards whose name or file holds one of them. It fails where a guard's text has changed, where a test
fails with the guard in place, and where none fails without it.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 600
LIBRARIES = ("torch", "gradio", "spaces", "monai", "diffusers", "nibabel", "scipy.ndimage", "skimage.measure", "httpx")


@dataclass(frozen=True)
class Guard:
    """One refusal in the code.

    Attributes:
        name: what is no longer refused without it.
        file: that it stands in, from the root.
        text: of the guard, which occurs there once.
        without: what stands there when it is removed.
        tests: the file of tests that should notice.
        words: of the tests that are run, as pytest's -k takes them.
    """

    name: str
    file: str
    text: str
    without: str
    tests: str
    words: str


GUARDS = (
    Guard(
        "a file larger than any volume",
        "vcm/volume/payload.py",
        "if size > MAX_FILE_BYTES:",
        "if False:",
        "test_payload.py",
        "larger_than_any_volume",
    ),
    Guard(
        "data behind the last voxel",
        "vcm/volume/payload.py",
        "if self.read_up_to(1):",
        "if False:",
        "test_payload.py",
        "more_data or checksum",
    ),
    Guard(
        "inflating without end",
        "vcm/volume/payload.py",
        "member.decompress(pending, _CHUNK_BYTES)",
        "member.decompress(pending)",
        "test_payload.py",
        "no_more_is_decompressed",
    ),
    Guard(
        "a flood of gzip members",
        "vcm/volume/payload.py",
        " or members > _MAX_GZIP_MEMBERS",
        "",
        "test_payload.py",
        "flood",
    ),
    Guard(
        "more voxels than are read",
        "vcm/volume/volume.py",
        "if x * y * z > MAX_VOXELS:",
        "if False:",
        "test_volume.py",
        "impossible_dimensions",
    ),
    Guard(
        "voxels at an impossible place",
        "vcm/volume/volume.py",
        "if not start <= offset <= start + _MAX_EXTENSION_BYTES or offset != int(offset):",
        "if False:",
        "test_volume.py",
        "damaged_header",
    ),
    Guard(
        "labels that are no labels",
        "vcm/volume/volume.py",
        "    if wrong.any():\n        found",
        "    if False:\n        found",
        "test_volume.py",
        "label",
    ),
    Guard(
        "an affine that is not finite",
        "vcm/volume/affines.py",
        "bool((np.abs(affine) < _FARTHEST_MM).all())",
        "True",
        "test_affines.py",
        "places_no_volume",
    ),
    Guard(
        "a singular affine",
        "vcm/volume/affines.py",
        "if not spacing.all() or abs(np.linalg.det(_directions(affine))) < _FLATTEST:",
        "if False:",
        "test_affines.py",
        "places_no_volume",
    ),
    Guard(
        "weights with another sum",
        "vcm/weights/checkpoint.py",
        "if hashes[name] != sums[name]:",
        "if False:",
        "test_checkpoint.py",
        "flipped_bit",
    ),
    Guard(
        "missing and unknown weights",
        "vcm/weights/checkpoint.py",
        "        if names:\n",
        "        if False:\n",
        "test_checkpoint.py",
        "missing_weight or unknown_weight",
    ),
    Guard(
        "a pickle that executes",
        "vcm/weights/checkpoint.py",
        "weights_only=True",
        "weights_only=False",
        "test_checkpoint.py",
        "malicious",
    ),
    Guard(
        "weights that are not finite",
        "vcm/weights/checkpoint.py",
        'not bool(torch.isfinite(tensor).all()):\n            raise CheckpointError(f"{path.name} holds',
        'False:\n            raise CheckpointError(f"{path.name} holds',
        "test_checkpoint.py",
        "not_finite_is_named",
    ),
    Guard(
        "a file of the hub with another sum",
        "vcm/weights/hub.py",
        "if expected is not None and found != expected:",
        "if False:",
        "test_hub.py",
        "known_beforehand or damaged_byte",
    ),
    Guard(
        "a number out of its range",
        "vcm/request.py",
        "if not _is_number(value) or not low <= value <= high:",
        "if not _is_number(value):",
        "test_request.py",
        "bad_value",
    ),
    Guard(
        "a recipe that is too large",
        "vcm/recipe.py",
        "if len(text) > MAX_RECIPE_BYTES:",
        "if False:",
        "test_recipe.py",
        "oversized",
    ),
    Guard(
        "a recipe that inflates without end",
        "vcm/recipe.py",
        "stream.decompress(packed, size + 1)",
        "stream.decompress(packed)",
        "test_recipe.py",
        "inflates",
    ),
    Guard(
        "doors that stay shut",
        "vcm/ui/server/guard.py",
        'if is_refused(scope["path"]):',
        "if False:",
        "test_ui_api.py",
        "nothing_but_the_page",
    ),
    Guard(
        "links in place of files",
        "vcm/ui/server/guard.py",
        "processing_utils.async_ssrf_protected_download = _refuse_link",
        "pass",
        "test_faults_injected.py",
        "linked_file",
    ),
    Guard(
        "guessing of content types",
        "vcm/ui/server/guard.py",
        '(b"x-content-type-options", b"nosniff"), ',
        "",
        "test_ui_api.py",
        "never_shown_as_a_page",
    ),
    Guard(
        "a path to a file that was not uploaded",
        "vcm/ui/api.py",
        " or not path.is_relative_to(folder)",
        "",
        "test_ui_api.py",
        "forged_path",
    ),
    Guard(
        "an upload that is too large",
        "vcm/ui/app.py",
        '        "max_file_size": _LARGEST_UPLOAD,\n',
        "",
        "test_ui_api.py",
        "upload_that_is_too_large",
    ),
    Guard(
        "a queue without an end",
        "vcm/ui/app.py",
        "max_size=_MOST_WAITING",
        "max_size=None",
        "test_faults_injected.py",
        "full_queue",
    ),
    Guard(
        "a session whose name is a path",
        "vcm/ui/server/session_files.py",
        "hashlib.sha256(session.encode()).hexdigest()[:32]",
        "session",
        "test_ui_session_files.py",
        "leads_out",
    ),
    Guard(
        "files that are never deleted",
        "vcm/ui/server/session_files.py",
        "for old in newest_first[KEPT_RUNS:]:",
        "for old in newest_first[:0]:",
        "test_ui_session_files.py",
        "newest_runs_stay",
    ),
    Guard(
        "a drawing that inflates without end",
        "vcm/ui/canvas/volume_files.py",
        "inflater.decompress(packed, expected + 1)",
        "inflater.decompress(packed)",
        "test_slice_canvas.py",
        "inflates_without_end",
    ),
    Guard(
        "a drawing on a grid of its own",
        "vcm/ui/canvas/slice_canvas.py",
        "if tuple(value.shape) != grid:",
        "if False:",
        "test_slice_canvas.py",
        "another_grid",
    ),
    Guard(
        "markup in what is told",
        "vcm/ui/words.py",
        "<p>{escape(text)}</p>{notes_html}",
        "<p>{text}</p>{notes_html}",
        "test_ui_words.py",
        "escaped",
    ),
)


def remove(guard: Guard, root: Path) -> str:
    """Return the source of a guard's file without it.

    Raises:
        ValueError: its text does not stand there exactly once.
    """
    source = (root / guard.file).read_text(encoding="utf-8")
    if source.count(guard.text) != 1:
        raise ValueError(f"{guard.file} holds {source.count(guard.text)} times: {guard.text!r}")
    return source.replace(guard.text, guard.without)


def run_tests(root: Path, files: set[str], words: str) -> tuple[int, list[str]]:
    """Run some tests of a copy, up to the first that fails; returns pytest's exit code and what failed.

    In a fork, which has the large libraries already: importing them takes longer than most of the tests.
    """
    output = root.parent / "output"
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE_SECONDS)  # a test that hangs is one that fails
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        os.chdir(root)
        os.environ["PYTHONPATH"] = str(root)
        sys.path.insert(0, str(root))
        sys.dont_write_bytecode = True
        options = ["-q", "-x", "-p", "no:cacheprovider", "-k", words]
        code = pytest.main([*options, *(f"tests/{file}" for file in sorted(files))])
        sys.stdout.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    failed = re.findall(r"^FAILED \S+::(\w+)", output.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return os.waitstatus_to_exitcode(status), failed


def main() -> None:
    """Print the table; exit with 1 if a guard is not tested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    words = parser.parse_args().words
    chosen = [each for each in GUARDS if not words or any(word in each.name or word in each.file for word in words)]
    unnoticed = 0
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    for library in LIBRARIES:
        import_module(library)
    with tempfile.TemporaryDirectory() as made:
        copy = Path(made) / "copy"
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", "runs", "*.pyi", ".*_cache"))
        code, failed = run_tests(
            copy, {each.tests for each in chosen}, " or ".join(f"({each.words})" for each in chosen)
        )
        if code != 0:
            sys.exit(f"With every guard in place, pytest ends with {code}: {failed}")
        print("| refused | where | without it fails |\n|---|---|---|", flush=True)  # noqa: T201
        for guard in chosen:
            file = copy / guard.file
            whole, without = file.read_text(encoding="utf-8"), remove(guard, copy)
            file.write_text(without, encoding="utf-8")
            code, failed = run_tests(copy, {guard.tests}, guard.words)
            file.write_text(whole, encoding="utf-8")
            is_noticed = code == 1 and bool(failed)
            unnoticed += not is_noticed
            told = f"`{failed[0]}`" if is_noticed else f"NOTHING (pytest ends with {code})"
            print(f"| {guard.name} | `{guard.file}` | {told} |", flush=True)  # noqa: T201
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
