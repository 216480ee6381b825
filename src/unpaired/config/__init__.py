"""Typed run configuration: sections, presets, TOML in and out, key=value overrides."""

from unpaired.config.load import (
    config_from_toml,
    load_config,
    preset,
    preset_name,
    preset_names,
    to_toml,
)
from unpaired.config.schema import (
    AugmentConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    LossConfig,
    ModalityConfig,
    ModelConfig,
    PredictConfig,
    Section,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "EvaluateConfig",
    "LossConfig",
    "ModalityConfig",
    "ModelConfig",
    "PredictConfig",
    "Section",
    "TrainConfig",
    "config_from_toml",
    "load_config",
    "preset",
    "preset_name",
    "preset_names",
    "to_toml",
]
