"""Walls between the parts: who may import what, read from the source without running it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "vcm").rglob("*.py"))
}
HEAVY = {"diffusers", "gradio", "monai", "nibabel", "nilearn", "plotly", "scipy", "skimage", "spaces", "torch"}


def imports_of(source: str, top_level: bool = False) -> Iterator[str]:
    """Yield the full names that a source imports; with `top_level`, only those that its import runs.

    What stands under `if TYPE_CHECKING:` never runs and is left out.
    """
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "import_module":
            yield from (str(argument.value) for argument in node.args if isinstance(argument, ast.Constant))
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            waiting.extend(node.orelse)
        elif not (top_level and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            waiting.extend(ast.iter_child_nodes(node))


def importers_of(*packages: str) -> set[str]:
    """Return the modules that import any of the packages, anywhere in them."""
    return {
        module
        for module, path in MODULES.items()
        for name in imports_of(path.read_text())
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    }


@pytest.mark.parametrize(
    "source",
    [
        "import gradio as gr",
        "import json, gradio.events",
        "from gradio import Blocks",
        "def build():\n    from gradio.data_classes import FileData",
        "try:\n    import gradio\nexcept ImportError:\n    pass",
        "import importlib\ngr = importlib.import_module('gradio')",
    ],
)
def test_an_import_is_seen_however_it_is_written(source: str) -> None:
    assert any(name.split(".")[0] == "gradio" for name in imports_of(source))


def test_imports_for_types_alone_and_imports_on_demand_are_told_apart() -> None:
    source = "if TYPE_CHECKING:\n    import torch\nelse:\n    import json\ndef run():\n    import monai\n"
    assert set(imports_of(source)) == {"json", "monai"}
    assert set(imports_of(source, top_level=True)) == {"json"}


def test_imports_name_their_module_in_full() -> None:
    assert list(imports_of("from .ui import app")) == [".ui.app"]
    for module, path in MODULES.items():
        assert not [name for name in imports_of(path.read_text()) if name.startswith(".")], module


LAYERS = {
    "errors": set(),
    "whole_files": set(),
    "volume": {"errors", "whole_files"},
    "runtime": set(),
    "modalities": {"errors", "volume"},
    "render": {"modalities", "volume"},
    "model": {"runtime"},
    "sampler": {"model"},
    "weights": {"model", "whole_files"},
    "metrics": set(),
    "request": {"modalities", "sampler", "volume"},
    "registration": {"errors", "modalities", "model", "request", "volume"},
    "recipe": {"modalities", "request", "volume", "whole_files"},
    "recipe_link": {"modalities", "recipe"},
    "job": {"modalities", "request", "runtime"},
    "outputs": {"modalities", "recipe", "registration", "request"},
    "pipeline": {"job", "modalities", "model", "recipe", "request", "runtime", "sampler", "volume", "weights"},
    "explore": {"metrics", "modalities", "pipeline", "render", "request", "volume"},
    "data": {"errors", "modalities", "model", "registration", "volume", "whole_files"},
    "train": {
        *("data", "metrics", "modalities", "model", "render", "runtime", "sampler"),
        *("volume", "weights", "whole_files"),
    },
}
"""What each package, or file directly in `vcm`, may import of the others; research, cli and ui stand above them."""

ABOVE = {
    "research": {*LAYERS},
    "ui": {*LAYERS} - {"train"},
    "cli": {*LAYERS, "research", "ui"},
}


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports_within(module: str) -> set[str]:
    """Return the modules of the package that a module imports when it runs, on demand or not."""
    found = set()
    for name in imports_of(MODULES[module].read_text()):
        while name and name not in MODULES:
            name = name.rpartition(".")[0]
        if part_of(name):
            found.add(name)
    return found - {module}


@pytest.mark.parametrize("module", sorted(module for module in MODULES if part_of(module) not in ("", "__main__")))
def test_every_file_imports_only_what_its_package_may(module: str) -> None:
    own = part_of(module)
    allowed = (LAYERS | ABOVE)[own] | {own}
    assert {part_of(name) for name in imports_within(module)} <= allowed


def test_there_is_no_circle() -> None:
    """Neither of packages, which the layers rule out, nor of files within one."""
    order = list(LAYERS)
    for index, (part, allowed) in enumerate(LAYERS.items()):
        assert allowed <= set(order[:index]), part
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join((*way, module))
        if module not in done:
            for name in imports_within(module):
                visit(name, (*way, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_only_the_ui_imports_gradio() -> None:
    importers = importers_of("gradio", "gradio_client")
    assert importers
    assert all(module.startswith("vcm.ui.") or module == "vcm.ui" for module in importers)


def test_only_the_command_line_imports_the_ui() -> None:
    outside = {module for module in importers_of("vcm.ui") if not module.startswith("vcm.ui")}
    assert outside <= {"vcm.cli.measure"}


def test_the_ui_imports_no_networks() -> None:
    for module in importers_of("monai", "diffusers"):
        assert not module.startswith("vcm.ui")


def test_only_volume_imports_nibabel() -> None:
    assert importers_of("nibabel") == {"vcm.volume.volume"}


NAMED_ELSEWHERE = {"data.cohort", "data.layouts", "data.simulate", "model.painter", "model.sketch", "weights.legacy"}
"""Where a word such as "tumor" is a contrast, the name of a file or of an array, or the package may not import more."""


def test_names_of_conditions_are_written_where_they_are_registered() -> None:
    names = {"tumor", "anatomy", "partial", "lowres", "t2", "flair", "semantic"}
    found = {
        module.removeprefix("vcm.")
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in names and not module.startswith("vcm.modalities")
    }
    assert found <= NAMED_ELSEWHERE


def test_only_surface_imports_plotly() -> None:
    assert importers_of("plotly") <= {"vcm.render.surface"}


@pytest.mark.parametrize(
    "module",
    ["vcm", "vcm.cli.main", "vcm.cli.generate", "vcm.cli.train", "vcm.cli.measure", "vcm.__main__", "vcm.errors"],
)
def test_the_doors_import_nothing_heavy(module: str) -> None:
    names = imports_of(MODULES[module].read_text(), top_level=True)
    assert not {name.split(".")[0] for name in names} & HEAVY


def test_importing_the_package_and_asking_for_a_request_loads_no_torch() -> None:
    code = (
        "import sys, vcm; assert 'numpy' not in sys.modules; vcm.GenerationRequest(); vcm.Volume; vcm.VolumeError; "
        "assert not {'torch', 'monai', 'gradio'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_is_exported_and_no_other() -> None:
    import vcm

    assert sorted(vcm.__all__) == ["GenerationRequest", "GenerationResult", "Pipeline", "VCM", "Volume", "VolumeError"]
    for name in vcm.__all__:
        assert getattr(vcm, name).__name__ == name
    assert set(vcm.__all__) <= set(dir(vcm))
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = vcm.nothing_of_the_kind
    from vcm.volume import VolumeError

    assert vcm.VolumeError is VolumeError
