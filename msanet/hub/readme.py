"""The README of a pushed network: what it is, its scores with intervals, how they were measured, and how to use it."""

import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from msanet.evaluation.protocols import NAMED
from msanet.evaluation.statistics import METRICS, RESAMPLES
from msanet.models.external.trust import is_user_code
from msanet.models.io import ModelMetadata

_NAMES = dict(zip(METRICS, ("mIoU", "mean accuracy", "pixel accuracy", "frequency-weighted IoU"), strict=True))


def readme_text(
    repository: str, metadata: ModelMetadata, scores: Sequence[dict[str, Any]], license: str | None, commands: str
) -> str:
    """Markdown with the front matter of the Hub.

    Args:
        repository: OWNER/NAME.
        metadata: Of the weights.
        scores: The content of each evaluation-<split>.json of the weights.
        license: Its id on the Hub; None leaves it open.
        commands: Those that trained the network, one a line; may be empty.
    """
    front = yaml.safe_dump(_front_matter(repository, metadata, scores, license), sort_keys=False, allow_unicode=True)
    options = "".join(f", {name}={value}" for name, value in metadata.options.items())
    about = (
        f"A network for semantic segmentation, trained with msanet {metadata.msanet_version}: `{metadata.name}{options}`, "
        f"{len(metadata.classes)} classes of {metadata.dataset}, step {metadata.step}."
    )
    parts = [
        f"---\n{front}---",
        f"# {repository.partition('/')[2]}",
        about,
        _use(repository, metadata),
        *(_scores(content) for content in scores),
        _classes(metadata),
        _training(metadata, commands),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(
    repository: str, metadata: ModelMetadata, scores: Sequence[dict[str, Any]], license: str | None
) -> dict[str, Any]:
    front: dict[str, Any] = {"license": license} if license else {}
    front |= {
        "library_name": "msanet",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", metadata.name, metadata.dataset],
    }
    results = [
        {
            "task": {"type": "image-segmentation", "name": "Semantic segmentation"},
            "dataset": {
                "type": content["measured"]["dataset"],
                "name": content["measured"]["dataset"],
                "split": content["split"],
            },
            "metrics": [
                {"type": name, "name": _NAMES[name], "value": content[name]}
                for name in _NAMES
                if content[name] is not None
            ],
        }
        for content in scores
    ]
    if results:
        name = repository.partition("/")[2]
        front |= {"metrics": ["mean_iou"], "model-index": [{"name": name, "results": results}]}
    return front


def _use(repository: str, metadata: ModelMetadata) -> str:
    plugin = next((f" --plugin {name}" for name in _code_of(metadata)), "")
    note = (
        f"\n\nIts network is code of its author, `{plugin.split()[1]}`, which is not in this repository."
        if plugin
        else ""
    )
    return (
        "## Use\n\n```\npip install 'msanet[hub]'\n"
        f"msanet pull {repository} --out model\n"
        f"msanet predict --checkpoint model{plugin} --images photos --out results\n"
        f"msanet export --checkpoint model{plugin} --to onnx\n```{note}"
    )


def _code_of(metadata: ModelMetadata) -> list[str]:
    names = (metadata.name, str(metadata.options.get("network", "")))
    return [name for name in names if is_user_code(name)]


def _scores(content: dict[str, Any]) -> str:
    interval = content.get("mean_iou_interval")
    rows = [
        (_NAMES[name], _percent(content[name]), _interval(interval if name == "mean_iou" else None)) for name in _NAMES
    ]
    rows += [(kind, _percent(content[kind]["mean"]), "") for kind in NAMED if kind in content]
    classes = [
        (
            _cell(name),
            _percent(row["iou"]),
            _interval(row.get("iou_interval")),
            _percent(row["accuracy"]),
            f"{row['support']:,}",
        )
        for name, row in content["classes"].items()
    ]
    origin, baseline = content["measured"], content["constant_baseline"]
    settings = ", ".join(f"evaluation.{name}={value}" for name, value in origin["settings"].items()) or "defaults"
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    notes = "".join(f"\n- {_cell(note)}" for note in content["notes"])
    return (
        f"## Scores on '{content['split']}'\n\n"
        f"{_table(('metric', 'value', '95 % interval'), rows)}\n\n"
        f"{_table(('class', 'IoU', '95 % interval', 'accuracy', 'pixels'), classes)}\n\n"
        f"- Measured on all {content['num_images']} images of split '{content['split']}' of {origin['dataset']}, each exactly "
        f"once, at their own size; digest of the shards' manifest `{origin['dataset_digest']}`.\n"
        f"- Protocol: {content['protocol']}. Settings: `{settings}`. Versions: {versions}.\n"
        f"- Intervals: images resampled {RESAMPLES} times with replacement, percentiles 2.5 to 97.5. They do not cover another "
        "seed of training, and are too narrow where images are of one video or city.\n"
        f"- The best constant prediction, all pixels '{_cell(baseline['class'])}', has a mIoU of "
        f"{_percent(baseline['mean_iou'])}.{notes}\n\n"
        f"```\n{_fenced(origin['command'])}\n```\n\n"
        "To measure it again, on shards with this digest: `msanet evaluate --checkpoint model --data SHARDS --split "
        f"{shlex.quote(content['split'])}{_words(origin['settings'])}`"
    )


def _words(settings: dict[str, Any]) -> str:
    texts = (yaml.safe_dump(value, default_flow_style=True).split("\n...")[0].strip() for value in settings.values())
    return "".join(" " + shlex.quote(f"evaluation.{name}={text}") for name, text in zip(settings, texts, strict=True))


def _classes(metadata: ModelMetadata) -> str:
    columns = zip(metadata.ids, metadata.classes, metadata.palette, strict=True)
    rows = [
        (str(number), str(own), _cell(name), f"`#{red:02x}{green:02x}{blue:02x}`")
        for number, (own, name, (red, green, blue)) in enumerate(columns)
    ]
    return f"## Classes\n\n{_table(('train id', 'id of the dataset', 'class', 'color'), rows)}"


def _training(metadata: ModelMetadata, commands: str) -> str:
    lines = f"\n\n```\n{_fenced(commands.rstrip())}\n```" if commands.strip() else ""
    return (
        f"## Training\n\nDataset {metadata.dataset}, digest of the shards' manifest `{metadata.dataset_digest}`.{lines}"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """A name as it stands, whatever Markdown and HTML would make of it."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_[]|#" else letter for letter in text)
    return " ".join(escaped.replace("&", "&amp;").replace("<", "&lt;").split())


def _fenced(text: str) -> str:
    return text.replace("```", "'''")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _interval(bounds: list[float] | None) -> str:
    return f"{_percent(bounds[0])} to {_percent(bounds[1])}" if bounds else ""
