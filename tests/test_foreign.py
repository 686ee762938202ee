"""A new VCM on a backbone made elsewhere: its configuration, the cohort on its grid, and the whole way to a volume."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bundle import build_small_config, build_small_model
from tiny import build_tiny_config

from vcm.cli import main
from vcm.data import simulate
from vcm.data.cohort import Cohort
from vcm.modalities.registry import list_trainable
from vcm.model.backbone import Backbone
from vcm.model.config import BackboneConfig, CovariateConfig, Grid, ModelConfig
from vcm.model.vcm import VCM
from vcm.pipeline import Pipeline
from vcm.request import GenerationRequest
from vcm.train.foreign import Placement, build_adapter_config, choose_adapter
from vcm.train.mini import build_mini_config
from vcm.volume import Volume
from vcm.weights import published
from vcm.weights.checkpoint import CheckpointError, load_backbone, load_model, save_model, write_sums
from vcm.weights.presets import brainldm_config

GRID = Grid((96, 128, 96), np.array([[-1.65, 0, 0, 79], [0, 1.75, 0, -130], [0, 0, 1.65, -70], [0, 0, 0, 1]]))
"""Where BrainLDM's grid lies, in its orientation (left, anterior, superior), with fewer voxels."""


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    """A small model in the layout and with the VCM of the published one."""
    return replace(build_small_config(), grid=GRID)


@pytest.fixture(scope="module")
def subjects() -> list[simulate.Subject]:
    return [simulate.simulate_subject(seed) for seed in (200_005, 200_007)]  # with large lesions


@pytest.fixture(scope="module")
def cohort(subjects: list[simulate.Subject]) -> Cohort:
    return build_cohort(subjects, range(2))


def build_cohort(
    subjects: list[simulate.Subject], seeds: Sequence[int], contrasts: tuple[str, ...] = ("t1",)
) -> Cohort:
    chosen = [subjects[seed % len(subjects)] for seed in seeds]
    facts = [subject.covariates for subject in chosen]
    return Cohort(
        seeds=seeds,
        images={name: np.stack([subject.images[name] for subject in chosen]).astype(np.float16) for name in contrasts},
        tumor=np.stack([subject.tumor for subject in chosen]),
        anatomy=np.stack([subject.anatomy for subject in chosen]),
        anatomy_before=np.stack([subject.anatomy_before for subject in chosen]),
        context=np.array([fact.context for fact in facts], np.float32),
        volumes_ml=np.array([(fact.ventricular_ml, fact.brain_ml) for fact in facts], np.float32),
    )


@pytest.fixture
def simulated(subjects: list[simulate.Subject], monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a cohort on disk, which takes minutes: two real subjects, over and over."""
    monkeypatch.setattr(
        "vcm.train.vcm.simulated_cohort",
        lambda cache, seeds, contrasts=("t1",): build_cohort(subjects, seeds, contrasts),
    )
    # All that are held out do as well, but take minutes.
    monkeypatch.setattr("vcm.train.vcm.HELD_OUT", 2)


@pytest.fixture(scope="module")
def source(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model made elsewhere."""
    model = build_small_model(config)
    folder = tmp_path_factory.mktemp("elsewhere")
    save_model(folder, config, model.backbone, model.adapter)
    return folder


def place(config: ModelConfig) -> Placement:
    ours = build_mini_config()
    return Placement(ours.grid, config.grid, ours.covariates, config.covariates)


def cache_published(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCM_CACHE", str(cache))
    folder = Path(shutil.copytree(source, published.backbone_folder()))
    (folder / "vcm.safetensors").unlink()
    (folder / "source.json").write_text("{}")
    write_sums(folder)


def center_mm(mask: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return affine[:3, :3] @ np.argwhere(mask).mean(0) + affine[:3, 3]


def test_a_vcm_for_a_published_backbone_is_new_and_begins_as_the_identity(config: ModelConfig) -> None:
    chosen = choose_adapter(config)
    assert list(chosen.condition_channels) == ["tumor", "anatomy"]
    assert not chosen.normalize_heads
    vcm = VCM(chosen)
    labels = {name: torch.ones(1, count, *GRID.shape) for name, count in chosen.condition_channels.items()}
    latent = torch.randn(1, *config.latent_shape)
    for output in vcm(latent, latent, vcm.encode_condition(labels), torch.tensor([500])):
        assert output.shape == latent.shape
        assert not output.any()


def test_a_vcm_for_brainldm_is_as_wide_as_the_published_one_and_fits() -> None:
    config = brainldm_config()
    chosen = choose_adapter(config, ["tumor"])
    assert replace(config, adapter=chosen).latent_shape == (3, 20, 28, 20)
    assert chosen.condition_channels == {"tumor": 3}
    assert chosen.unet["channels"] == [64, 128, 256]
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in VCM(chosen).parameters()) < 50e6


@pytest.mark.parametrize(("factor_levels", "shape"), [(1, (8, 12, 8)), (2, (8, 12, 8)), (5, (32, 48, 80))])
def test_a_vcm_fits_a_backbone_of_any_downsampling(factor_levels: int, shape: tuple[int, int, int]) -> None:
    config = build_tiny_config()
    autoencoder = config.backbone.autoencoder | {
        "channels": [4] * factor_levels,
        "attention_levels": [False] * factor_levels,
    }
    diffusion = config.backbone.diffusion | {
        "channels": [8], "attention_levels": [False], "num_head_channels": [8]
    }  # fmt: skip
    backbone = replace(config.backbone, autoencoder=autoencoder, diffusion=diffusion)
    factor = backbone.downsampling_factor
    latent = tuple(n // factor for n in shape)
    grid = Grid(shape, np.eye(4))
    adapter = build_adapter_config(backbone, grid, {"tumor": 3})
    assert ModelConfig("ours", grid, backbone, adapter).latent_shape == (4, *latent)
    vcm = VCM(adapter)
    features = vcm.encode_condition({"tumor": torch.zeros(1, 3, *shape)})
    assert features.shape[2:] == latent
    assert (
        vcm(torch.zeros(1, 4, *latent), torch.zeros(1, 4, *latent), features, torch.tensor([3]))[0].shape[2:] == latent
    )


def test_a_backbone_of_ones_own_is_a_folder_without_a_vcm_until_one_is_trained(tmp_path: Path) -> None:
    """The steps of the README, for networks that know no covariates."""
    small = build_small_config().backbone
    diffusion = small.diffusion | {"in_channels": 3, "with_conditioning": False, "cross_attention_dim": None}
    networks = BackboneConfig(small.autoencoder, diffusion, covariates_as_channels=False, covariates_as_context=False)
    grid = Grid((96, 128, 96), np.diag([2.0, 2, 2, 1]))
    config = ModelConfig("ours", grid, networks, build_adapter_config(networks, grid, {"tumor": 3}))
    backbone = Backbone(networks, config.latent_shape)
    save_model(tmp_path / "backbone", config, backbone)
    read, loaded, _ = load_backbone(tmp_path / "backbone")
    assert read == config
    epsilon = loaded.predict_epsilon(torch.zeros(1, *config.latent_shape), torch.tensor([5]), torch.zeros(1, 1, 4))
    assert epsilon.shape == (1, *config.latent_shape)
    with pytest.raises(CheckpointError, match=r"vcm\.safetensors is missing"):
        load_model(tmp_path / "backbone")


def test_our_own_vcm_is_kept_or_given_other_conditions() -> None:
    config = build_tiny_config()
    assert choose_adapter(config) == config.adapter
    assert choose_adapter(config, ["anatomy", "tumor"]) == config.adapter
    assert choose_adapter(config, ["tumor"]) == replace(config.adapter, condition_channels={"tumor": 3})
    with pytest.raises(ValueError, match="condition is 'semantic'; it must be one of tumor, anatomy"):
        choose_adapter(config, ["semantic"])


def test_a_cohort_on_another_grid_is_the_same_in_the_world(cohort: Cohort, config: ModelConfig, tmp_path: Path) -> None:
    placed = place(config).apply(cohort, tmp_path)
    assert placed.images["t1"].shape == placed.tumor.shape == (2, *GRID.shape)
    voxel_ml = [abs(np.linalg.det(affine[:3, :3])) / 1000 for affine in (simulate.AFFINE, GRID.affine)]
    for index in range(2):
        before, after = cohort.tumor[index] > 0, placed.tumor[index] > 0
        assert after.sum() * voxel_ml[1] == pytest.approx(before.sum() * voxel_ml[0], rel=0.15)
        distance = center_mm(after, GRID.affine) - center_mm(before, simulate.AFFINE)
        assert np.abs(distance).max() < 1.0
        image = placed.images["t1"][index].astype(np.float32)
        assert 0.0 <= image.min() < image.max() <= 1.0
        assert image[placed.anatomy[index] == 3].mean() == pytest.approx(
            cohort.images["t1"][index][cohort.anatomy[index] == 3].astype(np.float32).mean(), abs=0.05
        )


def test_a_placed_cohort_is_made_once_and_told_from_others(cohort: Cohort, config: ModelConfig, tmp_path: Path) -> None:
    first = place(config).apply(cohort, tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    stamp = (folder / "tumor.npy").stat().st_mtime_ns
    again = place(config).apply(cohort, tmp_path)
    assert np.array_equal(first.tumor, again.tumor)
    assert (folder / "tumor.npy").stat().st_mtime_ns == stamp
    changed = replace(cohort, tumor=np.zeros_like(cohort.tumor))
    assert not place(config).apply(changed, tmp_path).tumor.any()


def test_processes_that_want_a_placed_cohort_at_once_find_it_whole(
    cohort: Cohort, config: ModelConfig, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: place(config).apply(cohort, tmp_path), range(2))
    for placed in (first, second):
        assert all(placed.tumor[index].any() for index in range(2))
    assert not list(tmp_path.glob("*.part"))


def test_covariates_are_counted_as_the_model_counts_them(cohort: Cohort, config: ModelConfig, tmp_path: Path) -> None:
    low, high = simulate.AGE_RANGE_YEARS
    ours = replace(cohort, context=np.array([[1, 0.5, 0.25, 0.75], [0, 0.0, 1.0, 0.0]], np.float32))
    years = low + (high - low) * ours.context[:, 1]
    wide = replace(config, covariates=CovariateConfig(age_years=(20.0, 100.0)))
    context = place(wide).apply(ours, tmp_path).context
    np.testing.assert_allclose(context[:, 1], (years - 20) / 80, atol=1e-6)
    np.testing.assert_array_equal(context[:, [0, 2, 3]], ours.context[:, [0, 2, 3]])


def test_a_grid_whose_first_axis_is_not_left_to_right_is_refused(config: ModelConfig) -> None:
    turned = np.array([[0, 0, 2.0, -80], [2, 0, 0, -100], [0, 2, 0, -60], [0, 0, 0, 1]])
    with pytest.raises(ValueError, match="between left and right"):
        place(replace(config, grid=Grid(GRID.shape, turned)))


@pytest.mark.long
@pytest.mark.parametrize("conditions", [(), ("tumor",)])
def test_the_command_trains_a_vcm_on_a_backbone_made_elsewhere_that_then_generates(
    source: Path,
    simulated: None,
    subjects: list[simulate.Subject],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    conditions: tuple[str, ...],
) -> None:
    model = str(source)
    if conditions:  # once by its name, as it lies in the cache
        cache_published(source, tmp_path / "cache", monkeypatch)
        model = "brainldm"
    chosen = [argument for name in conditions for argument in ("--condition", name)]
    arguments = ["train", "vcm", "--model", model, "--out", str(tmp_path / "new"), *chosen]
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--samples", "2", "--steps", "2"])
    assert caught.value.code == 0
    new, old = load_model(tmp_path / "new"), load_model(source)
    assert new.adapter.modalities == (conditions or ("tumor", "anatomy"))
    assert new.config.name == "-".join(["brainldm", *new.adapter.modalities])
    assert new.config.backbone == old.config.backbone
    for name, tensor in old.backbone.state_dict().items():
        assert torch.equal(new.backbone.state_dict()[name], tensor), name

    drawn = Volume(subjects[0].tumor, simulate.AFFINE)
    result = Pipeline.from_pretrained(tmp_path / "new", device="cpu")(
        GenerationRequest({"tumor": drawn}, num_inference_steps=2)
    )
    assert result.controlled.array.shape == GRID.shape
    assert not np.array_equal(result.controlled.array, result.uncontrolled.array)
    with pytest.raises(SystemExit) as caught:  # three steps more, with nothing to say about the conditions
        main([*arguments[:6], "--samples", "2", "--steps", "5", "--resume"])
    assert caught.value.code == 0
    assert load_model(tmp_path / "new").config == new.config


@pytest.mark.long
def test_a_run_goes_on_with_its_own_conditions_only(source: Path, simulated: None, tmp_path: Path) -> None:
    from vcm.train.stages import train

    train("vcm", tmp_path, model=source, samples=2, steps=1, conditions=["tumor"])
    with pytest.raises(ValueError, match="follows other conditions"):
        train("vcm", tmp_path, model=source, samples=2, steps=2, conditions=["anatomy"], resume=True)
    with pytest.raises(ValueError, match="Only a VCM"):
        train("segmenter", tmp_path, conditions=["tumor"])


def test_a_trained_vcm_goes_on_with_more_conditions(source: Path, simulated: None, tmp_path: Path) -> None:
    from vcm.train.stages import train

    train("vcm", tmp_path, model=source, samples=2, steps=1, conditions=["tumor"])
    before = load_model(tmp_path).adapter
    train("vcm", tmp_path, samples=2, steps=1, conditions=["tumor", "t2"], from_weights=True)
    after = load_model(tmp_path).adapter
    assert after.modalities == ("tumor", "t2")
    weight = "condition_encoders.tumor.conv_in.weight"
    torch.testing.assert_close(after.state_dict()[weight], before.state_dict()[weight], atol=0.01, rtol=0.01)


def test_a_model_stays_whole_until_its_new_vcm_is_there(
    source: Path, simulated: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vcm.train import stages

    stages.train("vcm", tmp_path, model=source, samples=2, steps=1, conditions=["tumor"])
    before = load_model(tmp_path)
    begun = []

    def stop(**given: object) -> None:
        begun.append(given["initial"])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stages, "train_vcm", stop)
        for options in ({"from_weights": True}, {"from_weights": True}, {"resume": True}):
            with pytest.raises(KeyboardInterrupt):
                stages.train("vcm", tmp_path, samples=2, steps=1, conditions=["tumor", "t2"], **options)
            after = load_model(tmp_path)
            assert after.config == before.config
            assert after.hashes == before.hashes
    assert all(initial is not None for initial in begun)  # a run that goes on began from weights, too
    stages.train("vcm", tmp_path, samples=2, steps=1, conditions=["tumor", "t2"], resume=True)
    assert load_model(tmp_path).adapter.modalities == ("tumor", "t2")
    stages.train("vcm", tmp_path, samples=2, steps=2, resume=True)
    assert load_model(tmp_path).adapter.modalities == ("tumor", "t2")


def test_a_copied_model_knows_where_brains_lie(source: Path, tmp_path: Path) -> None:
    from vcm.train.stages import _copy_backbone

    copied = tmp_path / "copied"
    copied.mkdir()
    (tmp_path / "model").mkdir()
    for name in ("config.json", "brain.nii.gz", "notes.txt"):
        (tmp_path / "model" / name).write_text("{}")
    _copy_backbone(tmp_path / "model", copied)
    assert {path.name for path in copied.iterdir()} == {"config.json", "brain.nii.gz", "SHA256SUMS"}


@pytest.mark.long
def test_a_vcm_learns_from_every_condition_that_can_be_trained(source: Path, simulated: None, tmp_path: Path) -> None:
    from vcm.train.stages import train

    train("vcm", tmp_path, model=source, samples=2, steps=8, conditions=list_trainable())
    trained = load_model(tmp_path).adapter
    untrained = VCM(trained.config)
    assert trained.modalities == list_trainable()
    assert all(parameter.isfinite().all() for parameter in trained.parameters())
    assert trained.heads.shift.weight.any()
    assert not untrained.heads.shift.weight.any()
