"""Segment images and videos: `python launcher/predict.py --run RUN --images PATH... --out FOLDER`, as `msanet predict`."""

from msanet.cli.main import run_script

if __name__ == "__main__":
    run_script("predict")
