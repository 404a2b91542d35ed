"""Networks from elsewhere behind `model.name`: other libraries' by prefix, and factories of the user's own."""

from msanet.models.external.adapter import AdaptedNetwork, check_contract
from msanet.models.external.sources import NetworkSource, find_source, is_external
from msanet.models.external.trust import require_trust, trust

__all__ = ["AdaptedNetwork", "check_contract", "NetworkSource", "find_source", "is_external", "require_trust", "trust"]
