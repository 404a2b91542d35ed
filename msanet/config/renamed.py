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


def settings_in(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of settings in sections."""
    for section, inner in tree.items():
        yield from ((f"{section}.{name}", value) for name, value in inner.items()) if isinstance(inner, dict) else ()


def refuse_old_name(name: str, value: Any, origin: str) -> None:
    """Raise UserError, which names the new one, for an old name or an old value.

    Args:
        name: Dotted name of a setting.
        value: Its value.
        origin: Where it was written.
    """
    new, new_value = RENAMED.get(name), RENAMED_VALUES.get(name, {}).get(value) if isinstance(value, str) else None
    if name in SPLIT:
        message = f"'{name}' is now three settings: {', '.join(SPLIT[name])}; set those that you need"
    elif new:
        message = f"'{name}' is now '{new}'; write {new if new_value is None else f'{new}={str(new_value).lower()}'}"
    elif new_value is not None:
        message = f"{name}={value} is now {name}={new_value}; write that"
    else:
        return
    raise UserError("MSA-CONFIG-006", f"{message} (from {origin})", setting=name)


def translate_old_names(tree: dict[str, Any]) -> dict[str, Any]:
    """The nested settings of a file that version 0.1 wrote, such as RUN/config.yaml, under today's names."""
    found: dict[str, Any] = {section: {} if isinstance(inner, dict) else inner for section, inner in tree.items()}
    for name, value in settings_in(tree):
        if isinstance(value, str):
            value = RENAMED_VALUES.get(name, {}).get(value, value)
        conversions = SPLIT.get(name) or {RENAMED.get(name, name): lambda same: same}
        for new, convert in conversions.items():
            section, _, leaf = new.partition(".")
            found[section][leaf] = convert(value)
    return found
