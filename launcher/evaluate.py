"""Evaluate a trained network: `deepspeed launcher/evaluate.py --run RUN --split val`, as `msanet evaluate`."""

from msanet.cli.main import run_script

if __name__ == "__main__":
    run_script("evaluate")
