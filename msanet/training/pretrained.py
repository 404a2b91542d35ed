"""The weights that a new run starts from."""

import logging
from collections.abc import Sequence

from msanet.config import Config
from msanet.models.network import SegmentationNetwork
from msanet.models.pretrained import initialize

logger = logging.getLogger(__name__)


def load_pretrained(model: SegmentationNetwork, config: Config, classes: Sequence[str]) -> None:
    """Put the weights of `model.pretrained` into a new network, and log what was taken; nothing where it is not set."""
    if config.model.pretrained is not None:
        report = initialize(model, config.model.pretrained, tuple(classes))
        logger.info(report.text(config.data.mean, config.data.std))
