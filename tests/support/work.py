"""Work for the processes of tests, which import it from here."""

from collections.abc import Callable, Sequence


def fail_at(number: int, group: Sequence[int], on_sample: Callable[[], object]) -> int:
    """The size of a group. Raises ValueError at `number`."""
    for item in group:
        if item == number:
            raise ValueError(f"{item}")
        on_sample()
    return len(group)
