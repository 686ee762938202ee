"""The stages of making a model, each from a model folder into it: what `vcm train` calls."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from vcm.data.own_data import OwnCohort, load_own_cohort
from vcm.model.autoencoder import Autoencoder
from vcm.model.config import ModelConfig
from vcm.runtime.memory import keep_freed_memory
from vcm.train.autoencoder import AutoencoderRecipe, train_autoencoder
from vcm.train.diffusion import DiffusionRecipe, find_brain_region, train_diffusion
from vcm.train.foreign import Placement, choose_adapter
from vcm.train.loop import STATE_FILE, count_steps
from vcm.train.mini import build_mini_config
from vcm.train.more_conditions import carry_over
from vcm.train.recipe import MINI, ModelRecipe, load_recipe, save_recipe
from vcm.train.record import began_from_weights, begin_run, read_training, record_run
from vcm.train.segmenter import SegmenterRecipe, train_segmenter
from vcm.train.team import Team, find_team
from vcm.train.vcm import OWN_DATA_LOOP, OWN_DATA_PASSES, VCMRecipe, train_vcm
from vcm.volume import Volume
from vcm.weights.checkpoint import (
    AUTOENCODER_FILE,
    BRAIN_FILE,
    CONFIG_FILE,
    DIFFUSION_FILE,
    SEGMENTER_FILE,
    STEP_FILE,
    VCM_FILE,
    WHITENING,
    fill,
    load_backbone,
    load_config,
    read_weights,
    save_model,
    save_weights,
    write_bytes,
    write_sums,
)
from vcm.weights.pretrained import EMBEDDED, find_model
from vcm.weights.segmenter import SEGMENTER_CONFIG_FILE, save_segmenter

logger = logging.getLogger(__name__)

COHORT_FOLDER = "cohort"
_WEIGHTS = {
    "autoencoder": AUTOENCODER_FILE,
    "diffusion": DIFFUSION_FILE,
    "vcm": VCM_FILE,
    "segmenter": SEGMENTER_FILE,
}
STAGES = tuple(_WEIGHTS)
"""In the order in which they are trained; the segmenter only measures the others."""
Recipe = TypeVar("Recipe", AutoencoderRecipe, DiffusionRecipe, VCMRecipe, SegmenterRecipe)


def train(
    stage: str,
    out: str | Path,
    *,
    model: str | Path = EMBEDDED,
    samples: int | None = None,
    steps: int | None = None,
    resume: bool = False,
    from_weights: bool = False,
    device: str = "cpu",
    conditions: Sequence[str] | None = None,
    data: str | Path | None = None,
    recipe: ModelRecipe | None = None,
) -> Path:
    """Train one stage and export it into the model folder `out`, which is returned.

    The stages, in order: "autoencoder" and "segmenter" need nothing; "diffusion" needs the autoencoder in `out`;
    "vcm" needs a whole backbone, in `out` or else that of `model`, which is copied beside the new VCM. A stage keeps
    its state and its log in `out/runs/<stage>`, and the simulated cohorts in `out/runs/cohort`. What each part
    learned from, and for how long, is written to `out/training.json`, run by run.

    Args:
        samples: how many simulated subjects to learn from, if not as many as the shipped recipe.
        steps: how many optimizer steps, if not as many as the shipped recipe.
        resume: go on where an earlier run of the stage stopped.
        from_weights: begin a new run from the stage's weights in `out`, instead of random ones; with `resume`, only
            where there is no run to go on with. A VCM may begin from one that follows other conditions, and, where
            `out` holds no model yet, from that of `model`.
        conditions: what a VCM is to follow, of tumor, anatomy, partial, lowres, t2 and flair; by default what the
            model's own follows, or tumor and anatomy where that is a published one.
        recipe: what the stages learn from and for how long, that of the embedded model by default.
        data: a folder of subjects to learn from instead of simulated ones, of a VCM, see `vcm.data.own_data`; by
            default the conditions are then those that the data show.

    Raises:
        DataProblemsError: something is wrong with the data; nothing is trained then.
        ValueError: there is no such stage, or what it needs is missing.
        FileExistsError: the stage was begun in `out` before, and `resume` was not asked for.
    """
    if stage not in STAGES:
        raise ValueError(f"stage is {stage!r}; it must be one of {', '.join(STAGES)}.")
    for name, value in (("samples", samples), ("steps", steps)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if conditions and stage != "vcm":
        raise ValueError("Only a VCM is trained to follow conditions.")
    if data is not None and stage != "vcm":
        raise ValueError("Only a VCM is trained on data of your own; the other parts learn from simulated subjects.")
    if data is not None and samples is not None:
        raise ValueError("samples counts simulated subjects; of your own data all are taken.")
    keep_freed_memory()
    folder = Path(out)
    runs = folder / "runs"
    team = find_team(device)
    with team.one_first():
        own = None if data is None else _load_own(data, folder, model, conditions, runs / COHORT_FOLDER)
    runs.mkdir(parents=True, exist_ok=True)
    trainings: dict[str, Callable[..., Any]] = {
        "autoencoder": _autoencoder,
        "diffusion": _diffusion,
        "vcm": partial(_adapter, conditions if own is None else own.conditions, own),
        "segmenter": _segmenter,
    }
    if stage == "vcm":
        needs_copy = from_weights and not (folder / CONFIG_FILE).is_file()
        team.wait()  # here and below: all have read what a folder holds before the first changes it
        if needs_copy and team.is_first:
            _copy_backbone(find_model(model), folder, with_vcm=True)
        team.wait()
    initial = _begin(folder, stage, resume, from_weights, team)
    whole = recipe or MINI
    if own is not None:
        ours = replace(whole.vcm, subjects=len(own.training), loop=OWN_DATA_LOOP, passes=OWN_DATA_PASSES)
        whole = replace(whole, vcm=ours)
    adjusted = replace(whole, **{stage: _adjust(getattr(whole, stage), samples, steps)})
    done = trainings[stage](
        folder,
        model,
        adjusted,
        out=runs / stage,
        cache=runs / COHORT_FOLDER,
        resume=resume,
        device=device,
        initial=initial,
    )
    only: dict[str, Any] = {}
    if own is not None:
        only["own_data"] = True
    if team.count > 1:
        only["processes"] = team.count
    if team.is_first:
        steps_made = count_steps(runs / stage, done.loop)
        record_run(folder, stage, runs / stage, steps=steps_made, subjects=done.subjects, **only)
        write_sums(folder)
    team.wait()
    return folder


def train_model(
    out: str | Path,
    *,
    samples: int | None = None,
    steps: int | None = None,
    recipe: ModelRecipe | None = None,
    with_segmenter: bool = False,
    device: str = "cpu",
) -> Path:
    """Train every stage of a model from nothing, in order, into the folder `out`, which is returned.

    Called again after it was stopped, it goes on where it was: a finished stage is not trained twice.

    Args:
        samples, steps: of every stage, if not as many as the recipe's.
        recipe: that of the embedded model by default; it is written into the folder first.
        with_segmenter: train the segmenter as well; otherwise that of the embedded model is copied, so that models are
            measured alike.

    Raises:
        ValueError: the folder holds a model of another recipe.
    """
    folder = Path(out)
    recipe = recipe or MINI
    adjusted = {stage: _adjust(getattr(recipe, stage), samples, steps) for stage in STAGES}
    recipe = replace(recipe, **adjusted)
    folder.mkdir(parents=True, exist_ok=True)
    earlier = load_recipe(folder)
    if earlier is not None and earlier != recipe:
        raise ValueError("The folder holds a model of another recipe: choose another folder.")
    if earlier is None and (folder / CONFIG_FILE).exists():
        raise ValueError("The folder holds a model that was made otherwise: choose another folder.")
    save_recipe(folder, recipe)
    for stage in STAGES:
        if stage == "segmenter" and not with_segmenter:
            for name in (SEGMENTER_FILE, SEGMENTER_CONFIG_FILE):
                shutil.copyfile(find_model(EMBEDDED) / name, folder / name)
        elif not _is_trained(folder, stage, recipe):
            train(stage, folder, resume=True, device=device, recipe=recipe)
    write_sums(folder)
    return folder


def _is_trained(folder: Path, stage: str, recipe: ModelRecipe) -> bool:
    """Tell whether a stage has come to the end of its recipe in this folder."""
    runs = read_training(folder).get(stage, [])
    is_whole = bool(runs) and runs[-1]["steps"] == getattr(recipe, stage).loop.steps
    return is_whole and (folder / _WEIGHTS[stage]).is_file()


def _autoencoder(folder: Path, model: str | Path, recipes: ModelRecipe, **run: Any) -> AutoencoderRecipe:
    recipe = recipes.autoencoder
    autoencoder = train_autoencoder(recipe=recipe, **run)
    if find_team(run["device"]).is_first:
        write_bytes(folder / CONFIG_FILE, build_mini_config().to_json().encode())
        save_weights(folder / AUTOENCODER_FILE, autoencoder.state_dict())
    return recipe


def _diffusion(folder: Path, model: str | Path, recipes: ModelRecipe, **run: Any) -> DiffusionRecipe:
    recipe = recipes.diffusion
    if not (folder / AUTOENCODER_FILE).is_file():
        raise ValueError("The folder has no autoencoder yet: train that first.")
    config = build_mini_config()
    autoencoder = Autoencoder(**config.backbone.autoencoder)
    fill(autoencoder, read_weights(folder / AUTOENCODER_FILE), AUTOENCODER_FILE)
    backbone = train_diffusion(config=config, autoencoder=autoencoder, recipe=recipe, **run)
    if find_team(run["device"]).is_first:
        region = find_brain_region(run["cache"], recipe)
        Volume(region.astype(np.uint8), config.grid.affine).save(folder / BRAIN_FILE)
        save_model(folder, config, backbone)
    return recipe


def _load_own(
    data: str | Path, folder: Path, model: str | Path, conditions: Sequence[str] | None, cache: Path
) -> OwnCohort:
    """Return the user's own subjects on the grid of the model to train for, once all of them are sound."""
    config = _find_config(folder, model)
    adapter = choose_adapter(config, conditions)  # an unknown name is refused before any file is opened
    return load_own_cohort(data, replace(config, adapter=adapter), cache, conditions)


def _find_config(folder: Path, model: str | Path) -> ModelConfig:
    """Return the configuration of the VCM that goes on in `folder`, else of its model, else of `model`."""
    run = folder / "runs" / "vcm"
    if (run / STATE_FILE).is_file() and (run / CONFIG_FILE).is_file():
        return load_config(run)
    return load_config(folder if (folder / CONFIG_FILE).is_file() else find_model(model))


def _adapter(
    conditions: Sequence[str] | None,
    own_cohort: OwnCohort | None,
    folder: Path,
    model: str | Path,
    recipes: ModelRecipe,
    **run: Any,
) -> VCMRecipe:
    recipe = recipes.vcm
    own = (folder / CONFIG_FILE).is_file()
    source = folder if own else find_model(model)
    before, backbone, _ = load_backbone(source)
    config = _find_config(folder, model)
    chosen = choose_adapter(config, conditions)
    if chosen != config.adapter:
        if (run["out"] / STATE_FILE).is_file():
            raise ValueError("The run in this folder follows other conditions: choose another folder.")
        if run["initial"] is not None:
            run["initial"] = carry_over(run["initial"], config.adapter, chosen).state_dict()
        config = replace(config, name="-".join([config.name, *chosen.condition_channels]), adapter=chosen)
    team = find_team(run["device"])
    team.wait()
    if team.is_first:
        if not own:
            _copy_backbone(source, folder)
        write_bytes(run["out"] / CONFIG_FILE, config.to_json().encode())
    run |= {"placement": _find_placement(config), "own": own_cohort}
    adapter = train_vcm(backbone=backbone, config=chosen, recipe=recipe, **run)
    if team.is_first:
        if config != before:  # not earlier: until then the folder's VCM is the one of before, whole
            write_bytes(folder / CONFIG_FILE, config.to_json().encode())
        save_weights(folder / VCM_FILE, adapter.state_dict())
    return recipe


def _find_placement(config: ModelConfig) -> Placement | None:
    """Return how simulated subjects are brought to a model's grid; None where it is theirs."""
    cohort = build_mini_config()
    if config.grid == cohort.grid:
        return None
    return Placement(cohort.grid, config.grid, cohort.covariates, config.covariates)


def _segmenter(folder: Path, model: str | Path, recipes: ModelRecipe, **run: Any) -> SegmenterRecipe:
    recipe = recipes.segmenter
    segmenter = train_segmenter(recipe=recipe, **run)
    if find_team(run["device"]).is_first:
        save_segmenter(segmenter, folder)
    return recipe


def _begin(folder: Path, stage: str, resume: bool, from_weights: bool, team: Team) -> dict[str, Tensor] | None:
    """Return the weights that this run starts from; None where it goes on with an earlier run, or starts afresh."""
    run_folder = folder / "runs" / stage
    state = run_folder / STATE_FILE
    has_state = state.is_file()
    team.wait()
    if has_state and (resume or not from_weights):
        return None  # the loop goes on with it, or refuses to overwrite it
    if resume:
        from_weights = from_weights or began_from_weights(run_folder)
    if from_weights and not (folder / _WEIGHTS[stage]).is_file():
        raise ValueError(f"The folder has no weights of the {stage} to start from.")
    if team.is_first:
        begin_run(folder, stage, run_folder, from_weights=from_weights)
        if has_state:
            state.replace(state.with_name(f"previous-{STATE_FILE}"))
    if not from_weights:
        return None
    weights = read_weights(folder / _WEIGHTS[stage])
    return {name: tensor for name, tensor in weights.items() if name not in WHITENING}


def _adjust(recipe: Recipe, samples: int | None, steps: int | None) -> Recipe:
    if samples is not None:
        recipe = replace(recipe, subjects=samples)
    if steps is not None:
        recipe = replace(recipe, loop=replace(recipe.loop, steps=steps))
    return recipe


def _copy_backbone(source: Path, folder: Path, with_vcm: bool = False) -> None:
    """A VCM of another folder's backbone goes with a copy of it, so that the new folder is a whole model."""
    left = (STEP_FILE,) if with_vcm else (VCM_FILE, STEP_FILE)
    for path in source.iterdir():
        if (path.suffix in (".json", ".safetensors") or path.name == BRAIN_FILE) and path.name not in left:
            shutil.copyfile(path, folder / path.name)
    write_sums(folder)
