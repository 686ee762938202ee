"""Configurations come back from JSON as they were, and refuse what they do not know."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from vcm.model.config import AdapterConfig, ConfigError, CovariateConfig, Grid, ModelConfig, ScheduleConfig
from vcm.weights.presets import brainldm_config


def changed(config: ModelConfig, path: str, value: Any) -> dict[str, Any]:
    """The configuration as parsed JSON, with one value changed."""
    values = json.loads(config.to_json())
    *parents, last = path.split(".")
    target = values
    for parent in parents:
        target = target[parent]
    target[last] = value
    return values


def test_configuration_survives_json(tiny_config: ModelConfig) -> None:
    assert ModelConfig.from_json(tiny_config.to_json()) == tiny_config


def test_order_of_the_modalities_survives_json(tiny_config: ModelConfig) -> None:
    read = ModelConfig.from_json(tiny_config.to_json())
    assert list(read.adapter.condition_channels) == ["tumor", "anatomy"]


def test_latent_shape_follows_from_the_grid(tiny_config: ModelConfig) -> None:
    assert tiny_config.latent_shape == (4, 4, 6, 4)
    assert brainldm_config().latent_shape == (3, 20, 28, 20)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("extra", 1, "unknown fields: extra"),
        ("backbone.schedule.beta", 0.1, "unknown fields: beta"),
        ("name", 3, "name must be of type str"),
        ("backbone.whitening", 1, "whitening must be of type bool"),
        ("backbone.schedule.num_train_timesteps", 1000.0, "must be of type int"),
        ("backbone.schedule.prediction_type", "sample", "must be one of epsilon, v_prediction"),
        ("backbone.schedule.beta_end", 0.001, "beta_start <= beta_end"),
        ("backbone.latent_scale_factor", 0.9, "no latent_scale_factor"),
        ("backbone.coordinate_channels", False, "must take 8 channels"),
        ("backbone.covariates_as_channels", False, "must take 7 channels"),
        ("backbone.covariates_as_context", False, "with_conditioning must agree"),
        ("backbone.diffusion.num_head_channels", [0, 0], "must divide its last channels"),
        ("backbone.diffusion.cross_attention_dim", 5, "cross_attention_dim must be 4"),
        ("adapter.aggregation", "sum", "must be one of concat, mean"),
        ("adapter.condition_channels", {}, "at least one modality"),
        ("adapter.condition_encoder.num_res_blocks", [0, 1, 0], "needs a residual block"),
        ("adapter.condition_encoder.downsample", [True, True, True], "must downsample by 4"),
        ("adapter.condition_encoder.channels", [4, 8, 10], "multiples of norm_num_groups"),
        ("adapter.unet.in_channels", "16", "adapter does not hold what it should"),
        ("backbone.autoencoder.channels", 8, "does not hold what it should"),
        ("adapter.unet.in_channels", 17, "latent, the epsilon and the features"),
        ("adapter.unet.in_channels", 18, "controls 5 latent channels"),
        ("covariates.age_years", [82.0, 44.0], "two rising numbers"),
        ("covariates.age_years", [44.0], "list of the right length"),
        ("grid.shape", [16, 24, 18], "multiple of 4"),
        ("grid.affine", [[1, 0], [0, 1]], "4 x 4"),
        ("grid.affine", np.zeros((4, 4)).tolist(), "invertible"),
        ("grid.affine", "identity", "matrix of numbers"),
    ],
)
def test_wrong_value_is_refused_with_one_sentence(
    tiny_config: ModelConfig, path: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        ModelConfig.from_dict(changed(tiny_config, path, value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["name", "grid", "backbone", "adapter", "covariates"])
def test_missing_field_is_refused_even_where_code_has_a_default(tiny_config: ModelConfig, field: str) -> None:
    values = json.loads(tiny_config.to_json())
    del values[field]
    with pytest.raises(ConfigError, match=f"lacks {field}"):
        ModelConfig.from_dict(values)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_json_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        ModelConfig.from_json(text)


def test_whole_numbers_are_read_as_numbers() -> None:
    assert (
        CovariateConfig.from_dict({"age_years": [44, 82], "ventricular_ml": None, "brain_ml": None})
        == CovariateConfig()
    )


def test_grids_are_equal_when_shape_and_affine_are() -> None:
    grid = Grid((2, 3, 4), np.eye(4))
    assert grid == Grid((2, 3, 4), np.eye(4).tolist())
    assert hash(grid) == hash(Grid((2, 3, 4), np.eye(4)))
    assert grid != Grid((2, 3, 4), np.diag([2.0, 1, 1, 1]))
    assert grid != Grid((2, 3, 5), np.eye(4))


def test_affine_of_a_grid_cannot_be_changed() -> None:
    affine = np.eye(4)
    grid = Grid((2, 3, 4), affine)
    affine[0, 0] = 9
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 9


def test_published_quirks_are_switched_on_for_the_published_model_only(tiny_config: ModelConfig) -> None:
    published = brainldm_config()
    assert published.adapter.normalize_heads
    assert published.backbone.latent_scale_factor == pytest.approx(0.896264910697937)
    assert published.backbone.schedule == ScheduleConfig(ddim_timesteps="leading", prediction_type="epsilon")
    assert not tiny_config.adapter.normalize_heads


def test_vcm_with_context_is_refused(tiny_config: ModelConfig) -> None:
    values = tiny_config.adapter.to_dict()
    values["unet"] |= {"with_conditioning": True, "cross_attention_dim": 4}
    with pytest.raises(ConfigError, match="takes no context"):
        AdapterConfig.from_dict(values)


def test_latent_that_a_network_cannot_halve_is_refused_for_the_network() -> None:
    published = brainldm_config()
    with pytest.raises(ConfigError, match=r"latent \[20, 28, 21\] must be a multiple of 4 for diffusion"):
        replace(published, grid=Grid((160, 224, 168), np.eye(4)))
