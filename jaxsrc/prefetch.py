"""Batches from the host to the devices: placed by sharding, one ahead, made on a background thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from jaxsrc.errors import UserError
from jaxsrc.protocol import PyTree, Stage
from jaxsrc.runtime import Runtime

AHEAD = 2  # batches that wait for their step


def place(batch: PyTree, runtime: Runtime, leading: int = 0) -> PyTree:
    """Put a host batch on the devices, its batch axis (after `leading` others) split over them.

    With several processes each makes the whole batch from (seed, step) and gives its own devices their rows.
    Errors: UserError where the devices do not divide the batch.
    """
    sharding = runtime.batch_sharding(leading)
    devices = len(runtime.devices)

    def put(x: np.ndarray) -> jax.Array:
        x = np.asarray(x)
        if x.ndim <= leading or x.shape[leading] % devices:
            rows = x.shape[leading] if x.ndim > leading else "no batch axis"
            raise UserError(f"expected a batch that {devices} devices divide, got {rows}; change the batch size")
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, batch)


def whole(arrays: PyTree, runtime: Runtime) -> PyTree:
    """Host arrays on the devices, whole on each of them."""
    put = lambda x: jax.make_array_from_callback(x.shape, runtime.replicated, lambda index: x[index])
    return jax.tree.map(put, arrays)


def stay(stage: Stage, runtime: Runtime) -> PyTree:
    """What stays on the devices for the whole stage; () where nothing does."""
    return () if stage.resident is None else whole(stage.resident(), runtime)


@contextmanager
def prefetched(stage: Stage, seed: int, steps: range, per_call: int, runtime: Runtime) -> Iterator[Iterator[PyTree]]:
    """Placed batches of the steps, in order; with per_call > 1 each stacks that many along a new leading axis.

    An exception of `batch_at` is raised where its batch is asked for.
    """
    ready: queue.Queue[Any] = queue.Queue(maxsize=AHEAD)
    stop = threading.Event()

    def make(step: int) -> PyTree:
        if per_call == 1:
            return place(stage.batch_at(seed, step), runtime)
        batches = [stage.batch_at(seed, step + i) for i in range(per_call)]
        return place(jax.tree.map(lambda *x: np.stack(x), *batches), runtime, leading=1)

    def work() -> None:
        for step in steps:
            try:
                item: Any = make(step)
            except Exception as error:  # raised again where the batch is asked for
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(item, Exception):
                return

    thread = threading.Thread(target=work, daemon=True, name="batches")
    thread.start()

    def batches() -> Iterator[PyTree]:
        for _ in steps:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item

    try:
        yield batches()
    finally:
        stop.set()
        thread.join(timeout=10)
