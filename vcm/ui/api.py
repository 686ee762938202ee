"""The two public endpoints, for HTTP, the Python client and agents alike; all else of the app is private."""

# No postponed annotations here: Gradio reads the types of the endpoints from the functions themselves.

import inspect
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

from vcm.modalities.names import FILL, PARTIAL
from vcm.modalities.registry import MODALITIES, load_condition
from vcm.registration.register import place_request
from vcm.request import GenerationRequest
from vcm.sampler.solvers import SOLVERS
from vcm.ui.sections.examples import Example
from vcm.ui.server.failures import FORESEEN, explain
from vcm.ui.server.session_files import session_folder, write_downloads
from vcm.ui.server.studio import Finished, Studio
from vcm.volume import Volume

Sampler = Literal[*SOLVERS]  # type: ignore[valid-type]
Sex = Literal["female", "male"]

_SETTINGS: dict[str, tuple[Any, str]] = {
    "guidance_scale": (float, "strength of the control, 0 (none) to 10; 1 is the published method."),
    "num_inference_steps": (int, "denoising steps, 1 to 1000."),
    "seed": (int, "of the noise, 0 to 4294967295; the same seed is the same brain."),
    "sampler": (Sampler, f"one of {', '.join(SOLVERS)}."),
    "control_start": (float, "fraction of the trajectory where control begins, 0 to control_end."),
    "control_end": (float, "fraction of the trajectory where control ends, up to 1."),
    "sex": (Sex, "female or male."),
    "age": (float, "years, 44 to 82."),
    "ventricular_volume": (float, "0 to 1 of the range that the model has seen."),
    "brain_volume": (float, "0 to 1 of the range that the model has seen."),
    "compare": (bool, "whether to generate the uncontrolled volume, too."),
}
"""The settings of a request, their types and their descriptions."""

_WHAT = """\
Generate a 3D brain MRI that follows label maps and scans, and the uncontrolled one of the same noise.

For research and teaching only. The label maps and scans are NIfTI files on any grid, brought to the model's by
their place in the world. A scan that lies elsewhere is brought to template space, with the masks on its grid;
the files go back."""

_RETURNS = """\
    The files: controlled.nii.gz, uncontrolled.nii.gz, one condition_<name>.nii.gz each, recipe.json;
        with partial also fill.nii.gz, what was made up.
    The recipe, which holds all that is needed to generate the same voxels again."""


def build_api(studio: Studio, examples: Sequence[Example], concurrency_id: str) -> None:
    """Add the endpoints `generate` and `examples` to the current `gr.Blocks`.

    Args:
        studio: runs the requests.
        examples: that the page offers.
        concurrency_id: of the runs, which take turns.
    """

    def generate(request: gr.Request, *values: Any) -> Generator[tuple[list[FileData], dict], None, None]:
        asked = dict(zip(_parameters(), values, strict=True))
        files = {name: asked.pop(name) for name in _files()}
        fill = files.pop(FILL)
        try:
            run = GenerationRequest(
                conditions={
                    name: load_condition(name, uploaded_path(file)) for name, file in files.items() if file is not None
                },
                fill=None if fill is None else Volume.load(uploaded_path(fill), labels=True),
                **asked,
            )
            with closing(studio.run(place_request(run))) as events:
                for event in events:
                    if isinstance(event, Finished):
                        written = write_downloads(event.result, session_folder(request))
                        yield [_served(path) for path in written.values()], event.result.recipe
                    else:
                        yield [], {}  # here a caller who has left is noticed
        except FORESEEN as error:
            raise gr.Error(explain(error), print_exception=False) from error

    _describe(generate)

    def list_examples() -> list[dict]:
        """List the finished examples of the page.

        Returns:
            One object each: name, title, sentence, and the recipe that made it, with its label maps embedded.
        """
        return [{"name": e.slug, "title": e.title, "sentence": e.sentence, "recipe": dict(e.recipe)} for e in examples]

    gr.api(generate, api_name="generate", concurrency_limit=1, concurrency_id=concurrency_id)
    gr.api(list_examples, api_name="examples")


def _files() -> dict[str, str]:
    """Return the files that a request may hold, and what each is: one a condition, and the fill beside its scan."""
    files = {}
    for name, modality in MODALITIES.items():
        files[name] = f"NIfTI file. {modality.help}"
        if name == PARTIAL:
            files[FILL] = "NIfTI mask of what is made up; without it, the tumor and what lies within 6 mm of it."
    return files


def _parameters() -> dict[str, inspect.Parameter]:
    """Return the parameters of `generate` behind the HTTP request, which Gradio offers under these names."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    types: dict[str, tuple[Any, Any]] = dict.fromkeys(_files(), (FileData | None, None))
    usual = {field.name: field.default for field in fields(GenerationRequest)}
    types |= {name: (type_, usual[name]) for name, (type_, _) in _SETTINGS.items()}
    return {
        name: inspect.Parameter(name, kind, default=default, annotation=type_)
        for name, (type_, default) in types.items()
    }


def _describe(generate: Any) -> None:
    """Give the endpoint its signature and its documentation: a file for each registered condition, and settings."""
    parameters = list(_parameters().values())
    request = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
    # Gradio documents what one answer holds; that there are several, only the last of which counts, is its own affair.
    answer = tuple[list[FileData], dict]
    generate.__signature__ = inspect.Signature([request, *parameters], return_annotation=answer)
    generate.__annotations__ = {each.name: each.annotation for each in (request, *parameters)} | {"return": answer}
    told = _files() | {name: text for name, (_, text) in _SETTINGS.items()}
    arguments = "\n".join(f"    {name}: {text}" for name, text in told.items())
    generate.__doc__ = f"{_WHAT}\n\nArgs:\n{arguments}\n\nReturns:\n{_RETURNS}"


def uploaded_path(file: FileData | Mapping[str, Any]) -> Path:
    """Return the path of a file that was uploaded to this server; nothing is fetched, and nothing else is opened.

    Raises:
        ValueError: the file lies elsewhere.
    """
    given = file.path if isinstance(file, FileData) else file.get("path") if isinstance(file, Mapping) else None
    folder = Path(get_upload_folder()).resolve()
    path = Path(str(given)).resolve()
    if given is None or not path.is_relative_to(folder) or not path.is_file():
        raise ValueError("A condition must be a file that was uploaded to this app first.")
    return path


def _served(path: Path) -> FileData:
    return FileData(path=str(path), orig_name=path.name)
