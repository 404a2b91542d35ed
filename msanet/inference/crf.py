"""The fully connected CRF after the network (Kraehenbuehl and Koltun 2011), by their code as pydensecrf2 packs it."""

from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from msanet.config import CrfConfig
from msanet.datasets.image_format import describe
from msanet.errors import UserError

_MIN_PROBABILITY = 1e-5  # as in pydensecrf.utils.unary_from_softmax


def require_pydensecrf() -> ModuleType:
    """pydensecrf's module. Raises UserError where it is not installed."""
    try:
        import pydensecrf.densecrf as densecrf
    except ImportError as error:
        raise UserError(
            "MSA-INFER-005",
            "evaluation.crf is enabled, but the package pydensecrf2 is not installed; run: pip install 'msanet[crf]'",
            setting="evaluation.crf.enabled",
        ) from error
    return densecrf


def refine(probabilities_KHW: Tensor, image_HWC: Tensor, settings: CrfConfig) -> Tensor:
    """Mean-field marginals (K, H, W) float32 of the CRF around a network's probabilities (K, H, W), on their device.

    image_HWC: the uint8 RGB image. The unary potential is -log of the probabilities; the pairwise one is Potts with the two
    kernels of equation 3, normalized symmetrically as in the authors' code and DeepLab's. Message passing is the
    permutohedral lattice's approximation, on one CPU core. Raises UserError if pydensecrf2 is not installed.
    """
    densecrf = require_pydensecrf()
    if image_HWC.dtype != torch.uint8 or image_HWC.shape[2] != 3:
        found = describe(image_HWC.shape[2], str(image_HWC.dtype).removeprefix("torch."))
        raise UserError(
            "MSA-INFER-791",
            f"evaluation.crf is for 8-bit RGB, and the image has {found}; set evaluation.crf.enabled=false",
            setting="evaluation.crf.enabled",
        )
    num_classes, height, width = probabilities_KHW.shape
    clamped_KN = probabilities_KHW.float().cpu().numpy().reshape(num_classes, -1).clip(min=_MIN_PROBABILITY)
    model = densecrf.DenseCRF2D(width, height, num_classes)
    model.setUnaryEnergy(np.ascontiguousarray(-np.log(clamped_KN)))
    if settings.smoothness_weight:
        model.addPairwiseGaussian(sxy=settings.smoothness_std, compat=settings.smoothness_weight)
    if settings.appearance_weight:
        model.addPairwiseBilateral(
            sxy=settings.appearance_std,
            srgb=settings.appearance_rgb_std,
            rgbim=np.ascontiguousarray(image_HWC.cpu().numpy()),
            compat=settings.appearance_weight,
        )
    marginals_KN = np.array(model.inference(settings.iterations), dtype=np.float32)
    return torch.from_numpy(marginals_KN).view(num_classes, height, width).to(probabilities_KHW.device)
