"""Processes that must not outlive the one that started them."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent() -> None:
    """Called in a child of `multiprocessing`: end it when the process that created it is gone, however that died.

    The creator is meant, not the operating system's parent, which under forkserver is the fork server: that lives on for
    as long as one of its children does.
    """
    creator = multiprocessing.parent_process()
    assert creator is not None, "only for processes that multiprocessing has started"

    def watch() -> None:
        wait([creator.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
