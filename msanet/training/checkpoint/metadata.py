"""The model metadata of a run: what its weights are, for whoever loads them."""

from msanet.config import Config
from msanet.data.manifest import Manifest
from msanet.models.io import ModelMetadata


def model_metadata(config: Config, manifest: Manifest, step: int) -> ModelMetadata:
    """Of the weights after `step` optimizer steps."""
    return ModelMetadata(
        name=config.model.name,
        options=config.model.options,
        dataset=manifest.name,
        dataset_digest=manifest.digest(),
        classes=manifest.classes,
        palette=manifest.palette,
        ids=manifest.ids,
        mean=config.data.mean,
        std=config.data.std,
        resize=config.evaluation.resize,
        step=step,
    )
