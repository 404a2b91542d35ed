"""No library that msanet uses reports its use to its maker, unless the user has said so."""

import os

_OFF = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime connects to its maker when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",  # it asks for its newest version when it is imported
    "DO_NOT_TRACK": "1",
}


def disable_telemetry() -> None:
    """Set what libraries read when they are imported, here and in processes that start from here; what is set stays."""
    for name, value in _OFF.items():
        os.environ.setdefault(name, value)
