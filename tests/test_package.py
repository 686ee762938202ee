"""The package as others get it: metadata that agrees with itself, and a wheel that works on its own."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from vcm import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def readme_command(name: str) -> str:
    """The command in the README's block under the given marker."""
    found = re.search(rf"<!-- {name}-command -->\n```bash\n(.+?)\n```", (ROOT / "README.md").read_text())
    assert found is not None
    return found.group(1)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", folder, ROOT],
        check=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_app_and_the_package_need_the_same():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert lines == PROJECT["project"]["dependencies"]


def test_the_space_header_is_valid():
    header = yaml.safe_load((ROOT / "README.md").read_text().split("---")[1])
    assert header["sdk"] == "gradio"
    assert (ROOT / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60
    assert header["license"] == PROJECT["project"]["license"].lower()
    assert isinstance(header["python_version"], str)  # an unquoted 3.10 would become 3.1
    (gradio,) = (line for line in PROJECT["project"]["dependencies"] if line.startswith("gradio"))
    low, high = re.fullmatch(r"gradio>=([\d.]+),<([\d.]+)", gradio).groups()
    version = tuple(map(int, header["sdk_version"].split(".")))
    assert tuple(map(int, low.split("."))) <= version < tuple(map(int, high.split(".")))


def test_the_readme_has_two_commands_and_the_integration_runs_the_second():
    assert readme_command("run") == "pip install -r requirements.txt && python app.py"
    assert readme_command("test").startswith("pip install -e")
    # The integration's own way to find the command, run by the integration's own shell.
    script = (ROOT / ".ci" / "run").read_text()
    (line,) = (line for line in script.splitlines() if line.startswith("test_command="))
    told = subprocess.run(
        ["bash", "-c", f'{line}\necho "$test_command"'], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == readme_command("test")


def test_every_package_is_in_the_table_of_contributing():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    told = set(re.findall(r"^\| `(vcm/[a-z]*/?)` \|", text, flags=re.MULTILINE))
    packages = {"vcm/", *(f"vcm/{path.parent.name}/" for path in (ROOT / "vcm").glob("*/__init__.py"))}
    assert told == packages


def test_few_files_lie_directly_in_the_package():
    assert len(list((ROOT / "vcm").glob("*.py"))) <= 14


def test_every_file_says_its_job_in_its_first_line():
    for path in (ROOT / "vcm").rglob("*.py"):
        assert path.read_text().startswith('"""'), path


def test_the_readme_is_a_page_and_all_links_between_pages_lead_somewhere():
    assert len((ROOT / "README.md").read_bytes()) < 8000
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_figures_of_the_readme_are_those_of_the_results():
    results = (ROOT / "docs" / "results.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (-?\d.+?\]) \|", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert len(rows) == 5
    for figure, found in rows:
        assert f"| {figure} | {found} |" in results


def test_a_clone_that_turns_line_ends_into_crlf_keeps_every_file_that_has_a_checksum(tmp_path):
    clone = tmp_path / "clone"
    crlf = ["-c", "core.autocrlf=true", "-c", "core.eol=crlf"]
    subprocess.run(["git", "init", "-q", clone], check=True)
    shutil.copytree(ROOT / "checkpoints", clone / "checkpoints")
    shutil.copyfile(ROOT / ".gitattributes", clone / ".gitattributes")
    subprocess.run(["git", *crlf, "add", "."], cwd=clone, check=True, capture_output=True)
    shutil.rmtree(clone / "checkpoints")
    subprocess.run(["git", *crlf, "checkout", "-q", "--", "."], cwd=clone, check=True)
    assert b"\r\n" not in (clone / "checkpoints" / "mini" / "config.json").read_bytes()
    for line in (clone / "checkpoints" / "mini" / "SHA256SUMS").read_text().splitlines():
        checksum, name = line.split()
        assert hashlib.sha256((clone / "checkpoints" / "mini" / name).read_bytes()).hexdigest() == checksum, name


def test_the_changelog_knows_the_version():
    assert re.search(rf"^## (Unreleased|{re.escape(__version__)})", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_wheel_holds_the_model_and_every_file_of_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {path for path in (ROOT / "vcm").rglob("*") if path.is_file() and path.suffix not in (".pyc", ".pyi")}
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= names
    model = {
        f"vcm/checkpoints/mini/{path.name}" for path in (ROOT / "checkpoints" / "mini").iterdir() if path.is_file()
    }
    assert {"vcm/checkpoints/mini/config.json", "vcm/checkpoints/mini/vcm.safetensors"} <= model <= names


def test_an_installed_wheel_generates_from_an_empty_folder(wheel, tmp_path):
    # The wheel itself in an environment of its own; what it depends on is lent by this one, which saves gigabytes.
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    python = environment / "bin" / "python"
    (site,) = (environment / "lib").glob("python*/site-packages")
    subprocess.run([sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "-q", wheel], check=True)
    lent = tmp_path / "lent"
    lent.mkdir()
    for place in map(Path, sys.path):
        if place.name == "site-packages":
            for entry in place.iterdir():
                if not entry.name.startswith(("vcm", "_vcm")) and entry.suffix != ".pth":
                    (lent / entry.name).symlink_to(entry)
    (site / "lent.pth").write_text(f"{lent}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[15:25, 15:25, 15:25] = 2
    affine = np.array([[2.0, 0, 0, -70], [0, 2, 0, -60], [0, 0, 2, -20], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(labels, affine), tmp_path / "lesion.nii.gz")

    command = [environment / "bin" / "vcm", "generate", "--condition", f"tumor={tmp_path / 'lesion.nii.gz'}"]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    answer = subprocess.run(
        [*command, "--steps", "2", "--device", "cpu", "--out", "result"],
        cwd=empty, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.stderr == ""
    assert answer.returncode == 0
    assert nib.load(empty / "result" / "controlled.nii.gz").shape == (80, 112, 80)
    where = subprocess.run([python, "-c", "import vcm; print(vcm.__file__)"], cwd=empty, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(environment)
