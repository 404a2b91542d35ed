"""Train a segmentation network: `deepspeed launcher/train.py --config camvid data.path=SHARDS run.dir=RUN [key=value ...]`

1. msanet.cli.train reads the settings, and with run.max_restarts becomes a supervisor, which restarts the rank after a failure.
2. Each rank joins the job in msanet.distributed.session, which ends all ranks, and logs why, when one of them dies or hangs.
3. msanet.training.train.train opens the shards, builds the network, and resumes from the latest complete checkpoint, if any.
4. Step by step it trains, logs, validates and saves, each when it is due; a signal makes it save and end with code 75.
5. After the last step the run folder has the last and the best checkpoint, the metrics and a report.
"""

from msanet.cli.main import run_script

if __name__ == "__main__":
    run_script("train")
