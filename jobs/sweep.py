"""Search for good settings: `python jobs/sweep.py --config NAME data.path=SHARDS sweep.folder=FOLDER`, as `msanet sweep`."""

from msanet.cli.main import run_script

if __name__ == "__main__":
    run_script("sweep")
