"""Export a trained network: `python launcher/export.py --run RUN --to onnx`, as `msanet export`."""

from msanet.cli.main import run_script

if __name__ == "__main__":
    run_script("export")
