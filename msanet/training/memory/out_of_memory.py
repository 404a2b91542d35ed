"""A training that is out of memory: the same again would be too, so that it is a matter of settings and no failure to restart."""

from collections.abc import Iterator
from contextlib import contextmanager

from msanet import distributed
from msanet.config import Config
from msanet.errors import UserError
from msanet.inference.predictor import is_out_of_memory


@contextmanager
def out_of_memory_as_user_error(config: Config) -> Iterator[None]:
    """Raise UserError, with what to set, where memory could not be allocated inside of the `with` block, on a GPU or a host."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[-1 if lines[0].startswith("Caught ") else 0].strip()[
            :200
        ]  # a loader process's come with a traceback
        raise UserError(
            "MSA-TRAIN-601",
            f"out of memory on rank {distributed.rank()} ({reason}); set {', or '.join(memory_suggestions(config))}, and run the "
            "same command again to resume from the last checkpoint, if any",
            setting="trainer.micro_batch_size",
        ) from error


def memory_suggestions(config: Config) -> list[str]:
    """What takes less memory, and is not set yet."""
    trainer = config.trainer
    found = [] if trainer.micro_batch_size == 1 else ["a smaller trainer.micro_batch_size (or auto)"]
    found.append("a smaller data.crop")
    if not trainer.activation_checkpointing:
        found.append("trainer.activation_checkpointing=true")
    if trainer.precision == "fp32" and distributed.device().type == "cuda":
        found.append("trainer.precision=bf16")
    if trainer.zero_stage < 3 and distributed.world_size() > 1:
        found.append("a higher trainer.zero_stage")
    return found
