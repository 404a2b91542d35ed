"""`msanet.evaluate` and `msanet.score`: metrics with intervals, and the counts of every image for comparisons."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from msanet import distributed
from msanet.api.arguments import PathLike, words_of
from msanet.api.local_ranks import run_local_ranks
from msanet.api.process_state import api_call
from msanet.api.settings import config_of, data_settings, find_checkpoint, is_run, with_metadata_resize
from msanet.config import Config, DataConfig, EvaluationConfig, StorageConfig
from msanet.data.band_settings import require_shown_bands
from msanet.data.manifest import Manifest
from msanet.data.open_dataset import Dataset, open_dataset
from msanet.distributed import Timeouts
from msanet.errors import UserError
from msanet.evaluation import evaluator
from msanet.evaluation.measurement import measured
from msanet.evaluation.per_image_counts import PerImageCounts, read_per_image_counts
from msanet.evaluation.result import EvaluationResult, require_complete, require_writable, write_evaluation
from msanet.evaluation.run_report import write_run_report
from msanet.evaluation.statistics import RESAMPLES, Comparison, WorstImage, paired_difference, worst
from msanet.inference.backends import load_model
from msanet.models.io import require_same_classes, require_same_images
from msanet.run_layout import RunLayout

OnWritten = Callable[[EvaluationResult, Path, Path], object]


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Metrics of one split, with what intervals and comparisons need.

    Args:
        metrics: The content of evaluation-<split>.json: `mean_iou`, `mean_iou_interval`, `classes` and others, from 0 to 1.
        counts: The confusion counts of every image.
        report: The HTML page, if one was written.

    Example:
        >>> first, second = msanet.evaluate("run"), msanet.evaluate("run2")
        >>> first.compare(second).metrics["mean_iou"].difference
    """

    metrics: Mapping[str, Any]
    counts: PerImageCounts
    report: Path | None = None

    def __repr__(self) -> str:
        return f"<Evaluation of '{self.metrics['split']}': {len(self.counts)} images, mean IoU {self.mean_iou:.2%}>"

    @classmethod
    def read(cls, folder: PathLike, split: str) -> "Evaluation":
        """What an evaluation, or the last validation of a training, has written into a folder. Raises UserError."""
        layout = RunLayout(Path(folder))
        counts = read_per_image_counts(layout.per_image_counts(split))
        metrics = json.loads(layout.evaluation(split).read_text(encoding="utf-8"))
        return cls(metrics, counts, layout.report if layout.report.is_file() else None)

    @property
    def mean_iou(self) -> float:
        """Of the whole split, by its protocol."""
        return float(self.metrics["mean_iou"])

    def compare(self, other: "Evaluation", resamples: int = RESAMPLES, seed: int = 0) -> Comparison:
        """The other evaluation minus this one, on the same images, with 95 % intervals. Raises UserError for other images."""
        return paired_difference(self.counts, other.counts, resamples, seed)

    def worst(self, count: int = 10) -> list[WorstImage]:
        """The images with the lowest mean IoU."""
        return worst(self.counts, count)


@dataclass(frozen=True)
class EvaluationJob:
    """What is to be evaluated, and where results go.

    find_checkpoint: Takes a while, since it verifies checkpoints.
    has_data_of_run: The data are those of --run, which may have been moved since.
    """

    find_checkpoint: Callable[[], Path]
    run: Path | None
    data: DataConfig
    has_data_of_run: bool
    split: str
    out: Path
    settings: EvaluationConfig
    storage: StorageConfig
    timeouts: Timeouts
    shown_bands: tuple[int, ...] | None = None


def evaluate(
    source: Any,
    *,
    data: PathLike | None = None,
    split: str | None = None,
    out: PathLike | None = None,
    best: bool = False,
    ranks: int = 1,
    **settings: Any,
) -> Evaluation:
    """Measure a trained network on a split; each image counts exactly once, on any number of ranks.

    Writes evaluation-<split>.json, evaluation-<split>.npz and report.html, as `msanet evaluate` does.

    Args:
        source: A `Run`, a run folder, a folder with model.safetensors, or that file.
        data: Folder or address of shards, or `folder:DIR` of images that are not packed; None for those of the run.
        split: None for the run's validation split.
        out: Where to write; None for the run, or the folder of the weights.
        best: Of a run the checkpoint with the best validation, not the latest.
        ranks: Processes to evaluate with; see `msanet.train`.
        settings: `evaluation` settings that override the run's, such as `evaluation={"flip": True}`.

    Returns:
        The evaluation.

    Raises:
        UserError: Bad input, or an image was missed.

    Example:
        >>> msanet.evaluate("run", split="test", evaluation={"flip": True}).mean_iou
    """
    with api_call():
        given = Path(getattr(source, "dir", source))
        run = given if is_run(given) else None
        find, config = partial(find_checkpoint, given, best), config_of(given, {**data_settings(data), **settings})
        job = new_job(config, find, given, run, not data, split, out)
        if ranks > 1:
            run_local_ranks(ranks, evaluate_and_exit, job)
        else:
            with distributed.session(job.timeouts):
                run_evaluation(job)
        return Evaluation.read(job.out, job.split)


def score(
    predictions: PathLike, truth: PathLike, *, out: PathLike | None = None, split: str | None = None, **options: Any
) -> Evaluation:
    """Score label maps that any program has predicted, by all figures that our own networks get.

    Args:
        predictions: Folder of PNGs: train ids, the dataset's own ids, or colors.
        truth: Folder of label maps, or folder or address of shards.
        out: Folder for evaluation-<split>.json, .npz and report.html; None writes nothing.
        split: Of the truth.
        options: Of `msanet score --help`, with underscores: `protocol="official-cityscapes"`, `classes="classes.yaml"`.

    Raises:
        UserError: Missing, doubled or wrong files, or unknown options.

    Example:
        >>> msanet.score("predictions", "gtFine/val", protocol="official-cityscapes").mean_iou
    """
    with api_call():
        from msanet.cli import score as command  # the command calls this package

        words = words_of({"predictions": predictions, "truth": truth, "split": split, "out": out, **options})
        result, spec = command.score(command.parser().parse_args(words))
        if out is None:
            return Evaluation(result.to_json(), result.per_image_counts)
        write_evaluation(Path(out), result)
        write_run_report(Path(out), spec.palette, result)
        return Evaluation.read(out, result.split)


def new_job(
    config: Config,
    find: Callable[[], Path],
    given: Path,
    run: Path | None,
    has_data_of_run: bool,
    split: str | None,
    out: PathLike | None,
) -> EvaluationJob:
    """With the run's own shards and split, and a place for the results, where none are given. Raises UserError.

    Args:
        config: Of the run, or the defaults.
        find: The checkpoint; see `EvaluationJob`.
        given: What the user has named: a run folder, or weights.
        run: The run folder, if it is one.
        has_data_of_run: See `EvaluationJob`.
        split: To evaluate on.
        out: Folder for the results.
    """
    if not config.data.source:
        message = "--data is not given, expected a folder of shards with --checkpoint; add --data SHARDS"
        raise UserError("MSA-CLI-007", message, setting="--data")
    split = split or config.data.val_split
    if split is None:
        found = "the run has no validation split (data.val_split=null)"
        message = f"{found}, expected a split to evaluate on; add --split SPLIT"
        raise UserError("MSA-CLI-601", message, setting="--split")
    return EvaluationJob(
        find,
        run,
        config.data.model_copy(update={"val_split": split}),
        run is not None and has_data_of_run,
        split,
        Path(out or (given if given.is_dir() else given.parent)),
        config.evaluation,
        config.storage,
        Timeouts.from_config(config.run),
        config.report.bands,
    )


def evaluate_and_exit(job: EvaluationJob, on_written: OnWritten = lambda *_: None) -> NoReturn:
    """The evaluation of one rank, as the whole of its process."""
    distributed.run_and_exit(partial(run_evaluation, job, on_written), job.timeouts)


def run_evaluation(job: EvaluationJob, on_written: OnWritten = lambda *_: None) -> None:
    """From a checkpoint and data to metrics; every rank runs this.

    on_written: called on rank 0 with the result and the files of the metrics and the report.
    """
    dataset = open_dataset(job.data, job.storage)
    manifest = distributed.on_main(lambda: _read_manifest(job, dataset))
    checkpoint = distributed.on_main(job.find_checkpoint)  # its hashes are verified once for all
    model, metadata = load_model(checkpoint, distributed.device())
    require_same_classes(metadata, manifest.classes, dataset.location)
    require_same_images(metadata, manifest.image_format, dataset.location)
    require_shown_bands(job.shown_bands, manifest.image_format)
    source = dataset.source(job.split, manifest)
    settings = with_metadata_resize(job.settings, metadata)
    distributed.on_main(lambda: require_writable(job.out))  # now, not after the work

    shown_bands = job.shown_bands or metadata.shown_bands
    result = evaluator.evaluate(model, source, settings, metadata.mean, metadata.std, shown_bands=shown_bands)
    if distributed.is_main():
        metrics = write_evaluation(job.out, result, measured(settings, metadata.step, checkpoint))
        report = write_run_report(job.out, metadata.palette, result, run=job.run)
        on_written(result, metrics, report)
    require_complete(result, source)


def _read_manifest(job: EvaluationJob, dataset: Dataset) -> Manifest:
    try:
        return dataset.read_manifest()
    except (UserError, OSError) as error:
        if not job.has_data_of_run or (isinstance(error, UserError) and error.setting == "--plugin"):
            raise
        raise UserError(
            "MSA-CLI-401",
            f"the data that the run '{job.run}' was trained on cannot be read ({error}); if they were moved, give their new "
            "place: --data SHARDS",
            setting="--data",
        ) from None
