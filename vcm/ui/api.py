"""The two public endpoints, for HTTP, the Python client and agents alike; all else of the app is private."""

# No postponed annotations here: Gradio reads the types of the endpoints from the functions themselves.

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import gradio as gr
from gradio.data_classes import FileData
from gradio.utils import get_upload_folder

from vcm.modalities.conditions import load_condition
from vcm.registration.register import place_request
from vcm.request import GenerationRequest
from vcm.sampler.solvers import DEFAULT_SOLVER, SOLVERS
from vcm.ui.sections.examples import Example
from vcm.ui.server.failures import FORESEEN, explain
from vcm.ui.server.session_files import session_folder, write_downloads
from vcm.ui.server.studio import Finished, Studio
from vcm.volume import Volume

Sampler = Literal[*SOLVERS]  # type: ignore[valid-type]
Sex = Literal["female", "male"]


def build_api(studio: Studio, examples: Sequence[Example], concurrency_id: str) -> None:
    """Add the endpoints `generate` and `examples` to the current `gr.Blocks`.

    Args:
        studio: runs the requests.
        examples: that the page offers.
        concurrency_id: of the runs, which take turns.
    """

    def generate(
        request: gr.Request,
        tumor: FileData | None = None,
        anatomy: FileData | None = None,
        partial: FileData | None = None,
        fill: FileData | None = None,
        lowres: FileData | None = None,
        t2: FileData | None = None,
        flair: FileData | None = None,
        semantic: FileData | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 20,
        seed: int = 0,
        sampler: Sampler = DEFAULT_SOLVER,
        control_start: float = 0.0,
        control_end: float = 1.0,
        sex: Sex = "female",
        age: float = 63.0,
        ventricular_volume: float = 0.5,
        brain_volume: float = 0.5,
        compare: bool = True,
    ) -> Generator[tuple[list[FileData], dict], None, None]:
        """Generate a 3D brain MRI that follows label maps and scans, and the uncontrolled one of the same noise.

        For research and teaching only. The label maps and scans are NIfTI files on any grid, brought to the model's by
        their place in the world. A scan that lies elsewhere is brought to template space, with the masks on its grid;
        the files go back.

        Args:
            tumor: NIfTI label map, 1 necrotic core, 2 edema, 3 enhancing tumor; empty asks for no tumor.
            anatomy: NIfTI label map, 1 CSF, 2 gray matter, 3 white matter, 4 ventricles.
            partial: NIfTI scan, a region of which is made up; it comes back on its own grid, untouched elsewhere.
            fill: NIfTI mask of that region; without it, the tumor and what lies within 6 mm of it.
            lowres: NIfTI T1-weighted scan of thick axial slices; the result is in its units.
            t2: NIfTI T2-weighted scan.
            flair: NIfTI FLAIR scan.
            semantic: NIfTI label map of a released model.
            guidance_scale: strength of the control, 0 (none) to 10; 1 is what its training settled on.
            num_inference_steps: denoising steps, 1 to 1000.
            seed: of the noise, 0 to 4294967295; the same seed is the same brain.
            sampler: unipc, ddim or dpmpp.
            control_start: fraction of the trajectory where control begins, 0 to control_end.
            control_end: fraction of the trajectory where control ends, up to 1.
            sex: female or male.
            age: years, 44 to 82.
            ventricular_volume: 0 to 1 of the range that the model has seen.
            brain_volume: 0 to 1 of the range that the model has seen.
            compare: whether to generate the uncontrolled volume, too.

        Returns:
            The files: controlled.nii.gz, uncontrolled.nii.gz, one condition_<name>.nii.gz each, recipe.json;
                with partial also fill.nii.gz, what was made up.
            The recipe, which holds all that is needed to generate the same voxels again.
        """
        given = {
            "tumor": tumor,
            "anatomy": anatomy,
            "partial": partial,
            "lowres": lowres,
            "t2": t2,
            "flair": flair,
            "semantic": semantic,
        }
        try:
            run = GenerationRequest(
                conditions={
                    name: load_condition(name, uploaded_path(file)) for name, file in given.items() if file is not None
                },
                fill=None if fill is None else Volume.load(uploaded_path(fill), labels=True),
                guidance_scale=guidance_scale,
                num_inference_steps=num_inference_steps,
                seed=seed,
                sampler=sampler,
                control_start=control_start,
                control_end=control_end,
                sex=sex,
                age=age,
                ventricular_volume=ventricular_volume,
                brain_volume=brain_volume,
                compare=compare,
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

    # Gradio documents what one answer holds; that there are several, only the last of which counts, is its own affair.
    generate.__annotations__["return"] = tuple[list[FileData], dict]

    def list_examples() -> list[dict]:
        """List the finished examples of the page.

        Returns:
            One object each: name, title, sentence, and the recipe that made it, with its label maps embedded.
        """
        return [{"name": e.slug, "title": e.title, "sentence": e.sentence, "recipe": dict(e.recipe)} for e in examples]

    gr.api(generate, api_name="generate", concurrency_limit=1, concurrency_id=concurrency_id)
    gr.api(list_examples, api_name="examples")


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
