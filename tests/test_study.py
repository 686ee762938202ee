"""The study: methods that start from the backbone and leave it as it is, trainings alike, and what is made of them."""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from coarse import GRID, CoarseCohorts, make_coarse_subjects
from test_evaluate import build_segmenter
from tiny import DRAFT, build_tiny_config, build_tiny_model
from torch import Tensor

from vcm.modalities.adherence import dice
from vcm.model.backbone import Backbone
from vcm.model.config import AdapterConfig
from vcm.research.report.report import STUDY, mark, write_study
from vcm.research.study import conduct as conducting
from vcm.research.study.conduct import RESULTS_FILE, conduct
from vcm.research.study.cost import measure_cost
from vcm.research.study.measuring import build_bench, generate
from vcm.research.study.methods import BUILDERS, Method, T2IAdapterMethod
from vcm.research.study.plan import ARMS, REPEATED, VARIANTS, Run, StudyPlan, choose_rate, find_main, list_runs
from vcm.research.study.pupil import find_tumor, teach
from vcm.research.study.table import list_lines, summarize_study
from vcm.research.study.training import build_method, method_conditions
from vcm.sampler import initial_noise, sample
from vcm.weights.checkpoint import load_model, save_model, write_sums
from vcm.weights.segmenter import load_segmenter, save_segmenter

CHANNELS = {"tumor": 3, "anatomy": 4, "t2": 1}
PLAN = StudyPlan(
    steps=2,
    sizes=(1, 2, 3),
    learning_rates=(1e-3, 2e-3),
    subjects=2,
    pool=4,
    lesion_mm=1,
    num_inference_steps=2,
    pupil_steps=2,
)


@pytest.fixture(scope="module")
def config() -> AdapterConfig:
    return build_tiny_config(GRID, CHANNELS).adapter


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return build_tiny_model(GRID, CHANNELS).backbone


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny = build_tiny_model(GRID, CHANNELS)
    save_model(folder, tiny.config, tiny.backbone, tiny.adapter)
    save_segmenter(build_segmenter(), folder)
    write_sums(folder)
    return folder


@pytest.fixture(scope="module")
def subjects() -> list[dict]:
    return make_coarse_subjects(("t1", "t2"))


@pytest.fixture
def cohorts(subjects, monkeypatch) -> None:
    monkeypatch.setattr("vcm.research.study.measuring.mean_ms_ssim", lambda volumes: [0.5, 0.6])
    for module in ("conduct", "measuring"):
        monkeypatch.setattr(f"vcm.research.study.{module}.simulated_cohort", CoarseCohorts(subjects))


@pytest.fixture(scope="module")
def conducted(model, subjects, tmp_path_factory) -> tuple[Path, dict]:
    """A whole study of a few trainings: every method, a second arm, every ablation."""
    out = tmp_path_factory.mktemp("study")
    largest = [Run(method, "tumor", 3) for method in REPEATED]
    kept = [run for run in list_runs(PLAN) if run.samples < 3 or run in largest]
    with pytest.MonkeyPatch.context() as patch:
        for module in ("conduct", "measuring"):
            patch.setattr(f"vcm.research.study.{module}.simulated_cohort", CoarseCohorts(subjects))
        patch.setattr(conducting, "list_runs", lambda plan: iter(kept))
        patch.setattr(conducting, "measure_cost", lambda model, name, plan, device: COST)  # has a test of its own
        patch.setattr(
            "vcm.research.study.measuring.mean_ms_ssim", lambda volumes: [0.5, 0.6]
        )  # needs more than 64 voxels
        return out, conduct(model, out, PLAN)


COST = {
    "parameters": 1000,
    "flops": 2 * 10**9,
    "training_step": {"cpu_seconds": 0.5},
    "denoising_step": {"cpu_seconds": 0.1},
    "memory_mib": 900.0,
    "memory_before_mib": 400.0,
}


def draw_inputs(backbone: Backbone) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    latent, context = torch.randn(2, *backbone.latent_shape), torch.rand(2, 1, 4)
    conditions = {name: torch.rand(2, channels, *GRID.shape) for name, channels in CHANNELS.items()}
    return latent, torch.tensor([900, 30]), context, conditions


def build(name: str, config: AdapterConfig, backbone: Backbone) -> Method:
    torch.manual_seed(1)
    return build_method(Run(name, "three", 1), config, backbone, PLAN)


@pytest.mark.parametrize("name", ["vcm", "published", "controlnet"])
def test_a_method_with_zero_heads_starts_as_the_backbone_itself(name, config, backbone):
    latent, timesteps, context, conditions = draw_inputs(backbone)
    method = build(name, config, backbone)
    epsilon, _ = method.estimate(backbone, latent, timesteps, context, method.encode(conditions))
    own = backbone.predict_epsilon(latent, timesteps, context)
    if name == "published":  # the norm of its heads makes a unit change of whatever they say
        assert (epsilon - own).abs().mean() > 0.1
    else:
        torch.testing.assert_close(epsilon, own)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_a_method_learns_and_the_backbone_does_not(name, config, backbone):
    latent, timesteps, context, conditions = draw_inputs(backbone)
    method = build(name, config, backbone)
    before = {key: tensor.clone() for key, tensor in backbone.state_dict().items()}
    optimizer = torch.optim.AdamW(method.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        features = method.encode(conditions)
        epsilon, _ = method.estimate(backbone, latent, timesteps, context, features)
        loss = epsilon.square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert min(losses) < 0.99 * losses[0]
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert all(parameter.grad is None for parameter in backbone.parameters())
    for key, tensor in backbone.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=0, atol=0, msg=key)
    assert method_conditions(method) == tuple(CHANNELS)


@pytest.mark.parametrize("name", list(BUILDERS))
def test_the_sampler_calls_every_method_as_a_vcm(name, config, backbone):
    latent, timesteps, context, conditions = draw_inputs(backbone)
    method = build(name, config, backbone)
    for parameter in method.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        features = method.encode(conditions)
        adapter = method.bind(backbone, context)
        epsilon = backbone.predict_epsilon(latent, timesteps, context)
        eps_scale, eps_shift = adapter(latent, epsilon, features, timesteps)
        own, _ = method.estimate(backbone, latent, timesteps, context, features)
    torch.testing.assert_close(epsilon * (1 + eps_scale) + eps_shift, own, rtol=1e-4, atol=1e-5)
    noise = initial_noise([1, 2], backbone.latent_shape)
    made = [
        sample(backbone, adapter, noise, context, features, num_inference_steps=2, guidance_scale=scale)
        for scale in (0.0, 1.0)
    ]
    plain = sample(backbone, None, noise, context, None, num_inference_steps=2)
    torch.testing.assert_close(made[0], plain)
    assert (made[1] - plain).abs().max() > 1e-4


def test_a_t2i_adapter_leaves_no_hook_behind(config, backbone):
    latent, timesteps, context, conditions = draw_inputs(backbone)
    method = build("t2i", config, backbone)
    assert isinstance(method, T2IAdapterMethod)
    before = backbone.predict_epsilon(latent, timesteps, context)
    features = method.encode(conditions)
    with pytest.raises(RuntimeError):
        method.estimate(backbone, latent[:, :1], timesteps, context, features)
    torch.testing.assert_close(backbone.predict_epsilon(latent, timesteps, context), before, rtol=0, atol=0)


def test_every_training_has_a_name_of_its_own_and_the_plan_is_what_was_asked():
    plan = StudyPlan()
    runs = list(list_runs(plan))
    assert len({run.name for run in runs}) == len(runs)
    for method in BUILDERS:
        sizes = {run.samples for run in runs if run.method == method and run.arm == "tumor" and run.variant is None}
        assert sizes == {10, 50, 500}
        assert len([run for run in runs if run.method == method and run.learning_rate is not None]) == 3
    for method in REPEATED:
        seeds = {(run.samples, run.seed) for run in runs if run.method == method and run.arm == "tumor"}
        assert seeds == {(10, 0), (10, 1), (10, 2), (50, 0), (50, 1), (50, 2), (500, 0)}
        assert {run.samples for run in runs if run.method == method and run.arm == "three" and not run.variant} == {
            50,
            500,
        }
    assert {run.variant for run in runs} == {None, *VARIANTS}


@pytest.mark.parametrize(
    ("change", "told"),
    [({"steps": 0}, "steps is 0"), ({"sizes": (10, 5, 500)}, "sizes is"), ({"learning_rates": ()}, "learning_rates")],
)
def test_a_plan_that_cannot_be_is_refused_by_its_field(change, told):
    with pytest.raises(ValueError, match=told):
        replace(StudyPlan(), **change)


def test_a_study_trains_all_alike_and_keeps_each_result(conducted):
    out, results = conducted
    assert json.loads((out / RESULTS_FILE).read_text()) == results
    assert results["plan"] == PLAN.to_json()
    assert StudyPlan.from_json(results["plan"]) == PLAN
    for name, run in results["runs"].items():
        rate = choose_rate(results["runs"], run["method"], PLAN)
        tuned = run["samples"] == 2 and run["seed"] == 0 and run["arm"] == "tumor" and run["variant"] is None
        assert run["learning_rate"] in PLAN.learning_rates if tuned else run["learning_rate"] == rate, name
        assert 0 <= run["figures"]["dice"]["value"] <= 1
        assert run["figures"]["change_outside"]["value"] >= 0
        assert ("tumor_alone" in run) == (run["arm"] == "three")
        assert run["validation"]["loss"] > 0
    largest = {"vcm-tumor-003-seed-0", "controlnet-tumor-003-seed-0"}
    assert {name for name, run in results["runs"].items() if "guidance" in run} == largest
    for name in largest:
        assert set(results["runs"][name]["guidance"]) == {"0.5", "1.5", "2.0", "3.0"}
    assert {name for name, run in results["runs"].items() if "taught" in run} == largest
    for found in (results["runs"]["vcm-tumor-003-seed-0"]["taught"], results["limits"]["taught"]):
        assert found["lessons"] == 2
        assert 0 <= found["dice"]["value"] <= 1
    parameters = {name: find_main(results["runs"], name, "tumor", 2)["parameters"] for name in BUILDERS}
    assert 0 < parameters["t2i"] < parameters["controlnet"] < parameters["concatenation"]
    limits = results["limits"]["limits"]
    assert limits["no condition (floor)"]["change_outside"]["value"] == 0
    assert not list((out / "work").glob("*seed*/"))  # the state of a finished training is not kept


def test_a_backbone_that_has_learned_on_is_compared_with_its_own_volumes(model, cohorts, tmp_path, config):
    backbone, segmenter = load_model(model).backbone, load_segmenter(model, torch.device("cpu"))
    bench = build_bench(backbone, segmenter, PLAN, tmp_path, "cpu")
    learned = copy.deepcopy(backbone)
    with torch.no_grad():
        for weight in learned.diffusion.parameters():
            weight.mul_(1.2)
    untrained = build("vcm", config, backbone)  # it changes nothing
    assert bench.describe(generate(learned, bench.pairs, PLAN))["change_outside"]["value"] > 0
    assert bench.measure(untrained, learned, ("tumor",))["change_outside"]["value"] == 0


def test_a_training_is_kept_until_its_result_is(conducted, model, cohorts, monkeypatch, tmp_path):
    _, results = conducted
    some = {name: run for name, run in results["runs"].items() if name != "vcm-tumor-001-seed-0"}
    (tmp_path / RESULTS_FILE).write_text(json.dumps({**results, "runs": some}))
    monkeypatch.setattr(conducting, "list_runs", lambda plan: iter([Run("vcm", "tumor", 1)]))
    write = conducting.write_json

    def refuse(path: Path, content: object) -> None:
        if path.parent.name == "runs" and path.stem == "vcm-tumor-001-seed-0":
            raise OSError("no space left")
        write(path, content)

    monkeypatch.setattr(conducting, "write_json", refuse)
    with pytest.raises(OSError, match="no space left"):
        conduct(model, tmp_path, PLAN)
    assert (tmp_path / "work" / "vcm-tumor-001-seed-0" / "state.pt").is_file()


def test_a_study_goes_on_with_what_is_missing_and_nothing_else(conducted, model, cohorts, monkeypatch):
    out, results = conducted
    gone = out / "runs" / "t2i-tumor-001-seed-0.json"
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in (out / "runs").glob("*.json")}
    monkeypatch.setattr(conducting, "list_runs", lambda plan: iter([Run("t2i", "tumor", 1), Run("vcm", "tumor", 1)]))
    again = conduct(model, out, PLAN)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for part in ("figures", "validation", "learning_rate", "parameters"):
        assert again["runs"][gone.stem][part] == results["runs"][gone.stem][part], part


def test_a_kept_study_is_enough_to_go_on_with(conducted, model, cohorts, monkeypatch, tmp_path):
    _, results = conducted
    some = {name: run for name, run in results["runs"].items() if name != "vcm-tumor-001-seed-0"}
    (tmp_path / RESULTS_FILE).write_text(json.dumps({**results, "runs": some}))
    trained = []
    monkeypatch.setattr(conducting, "list_runs", lambda plan: iter([Run("t2i", "tumor", 1), Run("vcm", "tumor", 1)]))
    train = conducting.train_run
    monkeypatch.setattr(conducting, "train_run", lambda run, *rest: trained.append(run.name) or train(run, *rest))
    again = conduct(model, tmp_path, PLAN)
    assert trained == ["vcm-tumor-001-seed-0"]
    assert set(again["runs"]) == set(results["runs"])


def test_a_folder_with_another_study_is_refused(conducted, model):
    out, _ = conducted
    with pytest.raises(ValueError, match="study of other weights or of another plan"):
        conduct(model, out, replace(PLAN, steps=3))


def test_too_few_large_lesions_are_told(model, cohorts, tmp_path, monkeypatch):
    monkeypatch.setattr(conducting, "measure_cost", lambda model, name, plan, device: COST)
    with pytest.raises(ValueError, match="Only 0 of 4 test subjects have a lesion of 900 mm"):
        conduct(model, tmp_path, replace(PLAN, lesion_mm=900))


@pytest.mark.long
def test_the_cost_of_a_method_counts_the_backbone_and_its_own_encoder(model):
    costs = {name: measure_cost(model, name, PLAN, "cpu") for name in ("vcm", "published")}
    for cost in costs.values():
        assert cost["parameters"] > 0
        assert cost["training_step"]["cpu_seconds"] > 0
        assert cost["memory_mib"] >= cost["memory_before_mib"] > 0
    # As published, the conditions are encoded at every step.
    assert costs["published"]["flops"] > costs["vcm"]["flops"]


def test_the_tables_tell_what_was_run_and_leave_out_what_was_not(conducted):
    _, results = conducted
    text = summarize_study(results)
    for title in ("our VCM", "VCM as published", "ControlNet", "T2I-Adapter", "from scratch"):
        assert f"| {title} | 1 |" in text
    for _, told in VARIANTS.values():
        assert told in text
    for title in ("our VCM", "ControlNet"):
        assert all(f"| {title} | {scale} |" in text for scale in ("0.5", "1", "1.5", "2", "3"))
    assert "| no condition (floor) | 0 |" in text
    assert f"So far {len(results['runs'])} of {len(list(list_runs(PLAN)))} trainings" in text
    assert "| simulated originals (ceiling) | 2 |" in text
    assert any(line.startswith("ControlNet") for line in list_lines(results))
    few = {**results, "runs": {name: run for name, run in results["runs"].items() if run["method"] == "published"}}
    assert "Guidance" not in summarize_study(few)
    with pytest.raises(ValueError, match="no finished training"):
        summarize_study({**results, "runs": {}})


def test_the_report_of_a_study_keeps_it_draws_it_and_writes_its_part_of_the_readme(conducted, tmp_path):
    out, _ = conducted
    readme, assets = tmp_path / "README.md", tmp_path / "assets"
    begin, end = mark(STUDY)
    readme.write_text(f"before\n{begin}\n{end}\nafter\n")
    written = write_study(out / RESULTS_FILE, readme=readme, pictures=assets)
    assert [path.name for path in written] == ["study.json", "study.png", "README.md"]
    assert (assets / "study.png").read_bytes().startswith(b"\x89PNG")
    text = readme.read_text()
    assert "](assets/study.png)" in text
    assert "| our VCM | 2 |" in text
    write_study(assets / "study.json", readme=readme)
    with pytest.raises(ValueError, match="run vcm study"):
        write_study(tmp_path / "none.json", readme=readme)


def test_the_arms_are_the_tumor_alone_and_three_conditions():
    assert ARMS == {"tumor": ("tumor",), "three": ("tumor", "anatomy", "t2")}


def test_a_segmenter_learns_to_find_bright_balls_from_a_few_volumes(tmp_path):
    random = np.random.default_rng(0)

    def draw_ball() -> tuple[np.ndarray, np.ndarray]:
        inside = np.linalg.norm(np.indices((48, 48, 48)).T - random.integers(16, 32, 3), axis=-1).T < 8
        image = 0.4 + 0.4 * inside + random.normal(0, 0.05, inside.shape)
        return image.clip(0, 1).astype(np.float32), inside

    lessons = [draw_ball() for _ in range(4)]
    pupil = teach([image for image, _ in lessons], [inside for _, inside in lessons], 200, tmp_path)
    image, inside = draw_ball()
    assert dice(inside, find_tumor(pupil, image)) > 0.8


def test_a_model_that_gains_a_draft_is_no_other_to_a_study():
    config = build_tiny_config(GRID, CHANNELS)
    later = replace(config, adapter=replace(config.adapter, draft=DRAFT))
    assert conducting._hash_config(later) == conducting._hash_config(config)
    other = replace(config, adapter=replace(config.adapter, head_channels=4))
    assert conducting._hash_config(other) != conducting._hash_config(config)
