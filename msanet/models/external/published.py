"""Weights that a library publishes, by their name: `model.pretrained=imagenet`, a tag of the library, or OWNER/NAME on the hub.

They are taken from the cache of the Hugging Face hub or of torch.hub, else from the network (`HF_ENDPOINT` names a mirror), and
are files of tensors: nothing of them is run.
"""

import importlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from msanet.errors import UserError, nearest
from msanet.plugins import first_line

logger = logging.getLogger(__name__)

DEFAULT = "imagenet"
"""The weights of the backbone that its library loads unless told otherwise."""
_ENDINGS = {".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".tar", ".npz", ".pkl", ".h5", ".onnx"}
_TORCH_FILES = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class Published:
    """Where weights are.

    Args:
        repository: OWNER/NAME on the Hugging Face hub.
        files: Of the repository, the one that is preferred first; some have only one of them.
        revision: Of the repository.
        url: Instead of a repository.
        with_config: The file is read together with the config.json next to it, by transformers.
    """

    repository: str = ""
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")
    revision: str | None = None
    url: str = ""
    with_config: bool = False


def torch_file(name: str) -> Published:
    """A file of torchvision."""
    return Published(url=f"{_TORCH_FILES}/{name}")


def is_published_name(weights: Path, has_library: bool) -> bool:
    """Whether a value of `model.pretrained` is the name of published weights instead of a file.

    Args:
        weights: The value.
        has_library: The network is not one of ours, for which there is only `imagenet`.
    """
    text = str(weights)
    if not has_library:
        return text == DEFAULT and not weights.exists()
    if weights.is_absolute() or text.startswith((".", "~")) or weights.exists() or weights.suffix in _ENDINGS:
        return False
    return text.count("/") <= 1


def find_published(tag: str, known: Mapping[str, Published], network: str) -> Path:
    """The local file of these weights, or the folder of a repository with its configuration.

    Args:
        tag: The value of `model.pretrained`.
        known: Weights that are published for this network, by tag.
        network: Its name, for the sentence of an error.

    Raises:
        UserError: There are no weights of that name, or they are neither in a cache nor can be downloaded.
    """
    found = known.get(tag)
    if found is None and "/" in tag:
        found = Published(tag, with_config=network.startswith("hf:"))
    if found is None:
        tags = f"{nearest(tag, sorted(known))}; or a file" if known else "give a file"
        raise UserError(
            "MSA-MODEL-780",
            f"model.pretrained is '{tag}', which is neither a file here nor the name of weights of {network}; {tags}",
            setting="model.pretrained",
        )
    return _torch_cache(tag, found.url) if found.url else _hub_cache(tag, found)


def published_config(repository: str) -> Path:
    """The folder with the config.json of OWNER/NAME on the hub, for `model.name`. Raises UserError as `find_published`."""
    return _hub_cache(f"hf:{repository}", Published(repository, files=("config.json",)), "model.name").parent


def _torch_cache(tag: str, url: str) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    try:
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise OSError("HF_HUB_OFFLINE is set")
        logger.info(f"model.pretrained: downloading {url}")
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), progress=False)
    except OSError as error:  # urllib's are
        raise _missing(tag, url, f"put it into '{path.parent}'", error) from None
    return path


def _hub_cache(tag: str, found: Published, setting: str = "model.pretrained") -> Path:
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        importlib.import_module("huggingface_hub.utils")  # with constants and errors, which it loads lazily
    except ModuleNotFoundError:
        message = f"{setting} is '{tag}', and huggingface_hub is not installed; run: pip install huggingface_hub"
        raise UserError("MSA-MODEL-505", message, setting=setting) from None
    path = _cached(hub, found)
    if path is None or (found.with_config and not path.with_name("config.json").is_file()):
        path = _downloaded(hub, tag, found, setting)
    return path.parent if found.with_config else path


def _cached(hub: Any, found: Published) -> Path | None:
    paths = (hub.try_to_load_from_cache(found.repository, file, revision=found.revision) for file in found.files)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _downloaded(hub: Any, tag: str, found: Published, setting: str) -> Path:
    hub.utils.disable_progress_bars()
    logger.info(f"{setting}: looking for {found.repository} on {hub.constants.ENDPOINT}")
    address = f"{hub.constants.ENDPOINT}/{found.repository}/resolve/{found.revision or 'main'}/{found.files[0]}"
    advice = (
        f"run `hf download {found.repository}` where there is a network, for the cache '{hub.constants.HF_HUB_CACHE}'"
    )
    reason: Exception = FileNotFoundError(f"it has none of {', '.join(found.files)}")
    for file in found.files:
        try:
            if found.with_config:
                hub.hf_hub_download(found.repository, "config.json", revision=found.revision)
            return Path(hub.hf_hub_download(found.repository, file, revision=found.revision))
        except hub.errors.LocalEntryNotFoundError as error:  # no network
            reason = error
            break
        except hub.errors.EntryNotFoundError:  # the other file, then
            continue
        except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
            reason = error
            break
    raise _missing(tag, address, advice, reason, setting)


def _missing(tag: str, address: str, advice: str, error: Exception, setting: str = "model.pretrained") -> UserError:
    why = first_line(error).partition(". ")[0]
    given = "its folder as model.name=hf:FOLDER" if setting == "model.name" else f"its path as {setting}"
    return UserError(
        "MSA-MODEL-781",
        f"{setting} is '{tag}', and {address} is neither in the cache nor can it be downloaded ({why}); {advice}, or copy the "
        f"file here and give {given}",
        setting=setting,
    )
