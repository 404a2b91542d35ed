"""The model card of a run: what its weights are, for whoever loads them."""

from msanet.config import Config
from msanet.data.index import Manifest
from msanet.models.saved import ModelCard


def model_card(config: Config, manifest: Manifest, step: int) -> ModelCard:
    """Of the weights after `step` optimizer steps."""
    return ModelCard(
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
