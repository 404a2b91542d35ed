"""The best validation so far: compared only with validations of the same images in the same way."""

import json
import logging
from collections.abc import Mapping

from msanet.config import Config
from msanet.data.manifest import Manifest
from msanet.secrets import without_secrets
from msanet.training.checkpoint.format import Best

logger = logging.getLogger(__name__)

_SETTINGS = ("resize", "scales", "flip", "window", "precision", "protocol")
"""Of the section `evaluation`, those on which the mean IoU depends."""


def conditions_of(config: Config, manifest: Manifest) -> dict[str, str]:
    """What a validation's mean IoU depends on besides the weights: setting -> value, for comparisons and sentences."""
    evaluation = config.evaluation
    found = {
        "data.val_split": config.data.val_split or "",
        "data.path": f"{manifest.name} {manifest.digest()[:12]}",
        "evaluation.crf": evaluation.crf.model_dump_json() if evaluation.crf.enabled else "off",
    }
    if config.data.val_paths:
        found["data.val_path"] = without_secrets(", ".join(config.data.val_paths))
    tree = evaluation.model_dump(mode="json")
    found |= {f"evaluation.{name}": json.dumps(tree[name]) for name in _SETTINGS}
    return found | ({"evaluation.overlap": f"{evaluation.overlap:g}"} if evaluation.window else {})


def comparable(best: Best | None, conditions: Mapping[str, str]) -> Best | None:
    """The best so far, or None, with a warning, where it was measured under other conditions."""
    if best is None or not best.conditions:  # a run of msanet 0.1, which did not record them
        return best
    names = sorted(best.conditions.keys() | conditions.keys())
    changed = [name for name in names if best.conditions.get(name) != conditions.get(name)]
    if not changed:
        return best
    was, now = best.conditions.get(changed[0], "unset"), conditions.get(changed[0], "unset")
    logger.warning(
        f"the best validation so far (mean IoU {best.mean_iou:.4f} at step {best.step}) had {changed[0]} {was}, this one has "
        f"{now}: they cannot be compared, and a new best begins"
    )
    return None
