"""Worker processes that do not outlive the process that started them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process


def end_with_parent() -> None:
    """In a worker: end it when its parent is killed; it would wait for tasks for ever."""
    parent = parent_process()
    if parent is None:
        return

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True, name="follow").start()


@contextmanager
def pool(workers: int, prepare: Callable[[], None]) -> Iterator[ProcessPoolExecutor]:
    """Spawned processes, each of which calls `prepare` first; an exception, Ctrl-C among them, stops their work at once."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=prepare) as made:
        try:
            yield made
        except BaseException:  # the pool would wait for the tasks in progress
            for worker in active_children():
                worker.terminate()
            raise
