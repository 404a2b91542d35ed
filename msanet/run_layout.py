"""Where everything lies in a run folder: each file name once.

RUN/config.yaml                 all settings, resolved
RUN/command.txt                 the command lines that started or resumed the run, one a line
RUN/metrics.jsonl               training and validation metrics, one JSON object a line
RUN/anomalies.jsonl             skipped steps and loss spikes, with their samples
RUN/samples-<rank>.jsonl        which samples each step took (run.record_samples)
RUN/bad-samples-<rank>.jsonl    samples that could not be read (data.on_bad_sample=skip)
RUN/logs/rank-<rank>.log        what each rank logged, with times
RUN/tensorboard/                the metrics as TensorBoard events
RUN/trackers.json               the run's ids in run.loggers, to continue its curves
RUN/checkpoints/                see `CheckpointLayout`
RUN/evaluation-<split>.json     scores; evaluation-<split>.npz: counts of every image
RUN/report.html                 the report of the last evaluation
RUN/profile/                    traces and tables (run.profile)
RUN/training.lock               which process trains here, while one does (see `msanet.folder_lock`)
RUN/failure_dump/step-<step>/   what `msanet replay` needs to do a step again that went wrong
"""

from pathlib import Path

LOG_PATTERNS = ("metrics.jsonl", "anomalies.jsonl", "samples-*.jsonl", "bad-samples-*.jsonl")
"""Files of lines with a `step`, which a resume cuts back to the checkpoint's step."""


class RunLayout:
    """The paths of one run. `dir`: the run folder; nothing here touches the disk."""

    def __init__(self, dir: Path) -> None:
        self.dir = dir
        self.config = dir / "config.yaml"
        self.command = dir / "command.txt"
        self.lock = dir / "training.lock"
        self.metrics = dir / "metrics.jsonl"
        self.anomalies = dir / "anomalies.jsonl"
        self.tensorboard = dir / "tensorboard"
        self.trackers = dir / "trackers.json"
        self.checkpoints = dir / "checkpoints"
        self.report = dir / "report.html"
        self.profile = dir / "profile"

    def samples(self, rank: int) -> Path:
        return self.dir / f"samples-{rank:05d}.jsonl"

    def bad_samples(self, rank: int) -> Path:
        return self.dir / f"bad-samples-{rank:05d}.jsonl"

    def log(self, rank: int) -> Path:
        return self.dir / "logs" / f"rank-{rank:05d}.log"

    def evaluation(self, split: str) -> Path:
        return self.dir / f"evaluation-{split}.json"

    def per_image_counts(self, split: str) -> Path:
        return self.dir / f"evaluation-{split}.npz"

    def failure_dump(self, step: int) -> Path:
        return self.dir / "failure_dump" / f"step-{step:08d}"


class CheckpointLayout:
    """File names inside RUN/checkpoints/step-<step>/, and of the two pointers beside these folders."""

    MODEL = "model.safetensors"
    RAW = "raw.safetensors"
    OPTIMIZER = "optimizer.safetensors"
    RNG = "rng.safetensors"
    BUFFERS = "buffers.safetensors"
    STATE = "state.json"
    CONFIG = "config.yaml"
    FILES = "files.json"
    LATEST = "latest"
    BEST = "best"
