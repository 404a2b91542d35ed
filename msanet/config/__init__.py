"""Every setting of a run: typed, documented, validated. YAML first, then dotted overrides (`trainer.epochs=50`).

An unknown key is an error that names the nearest one, or all of its section.
"""

from msanet.config.base import Section
from msanet.config.data import DataConfig, StorageConfig
from msanet.config.evaluation import CrfConfig, EvaluationConfig
from msanet.config.loading import load_config, load_run_config, parse_config, read_yaml, settings
from msanet.config.sections import (
    Config,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    TrainerConfig,
)

__all__ = [
    "Config",
    "CrfConfig",
    "DataConfig",
    "EvaluationConfig",
    "LossConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RunConfig",
    "ScheduleConfig",
    "Section",
    "StorageConfig",
    "TrainerConfig",
    "load_config",
    "load_run_config",
    "parse_config",
    "read_yaml",
    "settings",
]
