"""Names that settings had in version 0.1, before they were renamed: what to write instead."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from msanet.errors import UserError

RENAMED: dict[str, str] = {
    "run.accept": "run.allow_changes",
    "run.grace": "run.preemption_grace_seconds",
    "run.restarts": "run.max_restarts",
    "data.scale": "data.random_scale",
    "data.max_class_ratio": "data.cat_max_ratio",
    "data.workers": "data.num_workers",
    "data.prefetch": "data.prefetch_factor",
    "data.block_bytes": "data.shuffle_block_bytes",
    "data.window": "data.shuffle_window",
    "data.epoch_end": "data.drop_last",
    "data.on_error": "data.on_bad_sample",
    "data.max_masked": "data.max_bad_fraction",
    "storage.cache_bytes": "storage.cache_limit_bytes",
    "storage.decoded_bytes": "storage.decoded_cache_limit_bytes",
    "storage.deadline": "storage.download_timeout_seconds",
    "storage.connections": "storage.max_connections",
    "storage.read_ahead": "storage.predownload",
    "loss.hardest": "loss.ohem_ratio",
    "optimizer.classifier_lr": "optimizer.classifier_lr_mult",
    "optimizer.clip_norm": "optimizer.clip_grad_norm",
    "schedule.every": "schedule.decay_every_steps",
    "schedule.warmup": "schedule.warmup_steps",
    "trainer.global_batch": "trainer.global_batch_size",
    "trainer.micro_batch": "trainer.micro_batch_size",
    "trainer.attention_ranks": "trainer.context_parallel_size",
    "trainer.ema": "trainer.ema_decay",
    "trainer.log_every": "trainer.log_every_steps",
    "trainer.checkpoint_every": "trainer.checkpoint_every_steps",
    "trainer.checkpoint_minutes": "trainer.checkpoint_every_minutes",
    "trainer.evaluate_every": "trainer.val_every_epochs",
    "trainer.max_skipped": "trainer.max_nonfinite_steps",
    "trainer.spike": "trainer.loss_spike_std",
    "evaluation.workers": "evaluation.num_workers",
    "sweep.grace": "sweep.grace_epochs",
    "sweep.perturb_every": "sweep.perturb_every_epochs",
    "sweep.concurrent": "sweep.max_concurrent_trials",
}
"""Old name -> new name, with the same meaning and unit."""

RENAMED_VALUES: dict[str, dict[str, Any]] = {
    "data.epoch_end": {"carry": False, "drop": True},
    "data.on_error": {"mask": "skip"},
    "evaluation.protocol": {"plain": "default"},
}
"""Name in version 0.1 -> old value -> new value, where values changed too."""

SPLIT: dict[str, dict[str, Callable[[float], float]]] = {
    "run.timeout": {
        "run.heartbeat_timeout_seconds": lambda seconds: 0.5 * seconds,
        "run.stall_timeout_seconds": lambda seconds: 0.8 * seconds,
        "run.rendezvous_timeout_seconds": lambda seconds: seconds,
    }
}
"""Old name -> the new ones that it became, each with its value under the old one."""


def refuse_old_name(name: str, value: Any, known: Mapping[str, Any], origin: str) -> None:
    """Raise UserError, which names the new one, for an old name or an old value.

    Args:
        name: Dotted name of a setting.
        value: Its value.
        known: Settings of this version by dotted name.
        origin: Where it was written, in brackets.
    """
    values = RENAMED_VALUES.get(name, {})
    new_value = values.get(value) if isinstance(value, str) else None
    if name in known:
        message = f"{name}={value} is now {name}={new_value}; write that" if new_value is not None else None
    elif name in SPLIT:
        message = f"'{name}' is now three settings: {', '.join(SPLIT[name])}; set those that you need"
    elif name in RENAMED:
        example = f"{RENAMED[name]}={str(new_value).lower()}" if values and new_value is not None else RENAMED[name]
        message = f"'{name}' is now '{RENAMED[name]}'; write {example}"
    else:
        message = None
    if message:
        raise UserError("MSA-CONFIG-006", f"{message} {origin}", setting=name)


def translate_old_names(tree: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The nested settings of a file that version 0.1 wrote, such as RUN/config.yaml, under today's names.

    Args:
        tree: Sections of settings.
        known: Settings of this version by dotted name. Names that it has are kept as they are.
    """
    found: dict[str, Any] = {}
    for section, settings in tree.items():
        if not isinstance(settings, dict):
            found[section] = settings
            continue
        for name, value in settings.items():
            for new, translated in _translated(f"{section}.{name}", value, known):
                new_section, _, leaf = new.partition(".")
                found.setdefault(new_section, {})[leaf] = translated
        found.setdefault(section, {})
    return found


def _translated(name: str, value: Any, known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, str):
        value = RENAMED_VALUES.get(name, {}).get(value, value)
    if name in SPLIT and name not in known:
        yield from ((new, convert(value)) for new, convert in SPLIT[name].items())
    else:
        yield (name if name in known else RENAMED.get(name, name)), value
