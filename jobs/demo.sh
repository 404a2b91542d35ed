#!/usr/bin/env bash
# The main job, start to end, on this machine; the same as `msanet demo`. Run it again and it continues where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
exec python -m msanet demo --dir "${DEMO_DIR:-demo}"
