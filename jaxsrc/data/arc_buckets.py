"""Episodes of ARC tasks as batches of static shape: padded canvases, sizes and masks; one bucket per canvas side.

Axes: b tasks, p pairs (demonstrations, then the query as the last), h = w = the bucket's side.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool

from jaxsrc.data.arc import SIDES, Pair, Task
from jaxsrc.errors import UserError

OUTSIDE = -1
"""Colour of canvas cells outside the grid, of absent pairs and of hidden outputs."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GridEpisode:
    """Demonstrations and one query per task, grids anchored top-left; absent grids have size 0 x 0 and no cells.

    inputs, outputs: int8[b, p, h, w], OUTSIDE around the grids; input_sizes, output_sizes: int32[b, p, 2], height and
    width; pair_mask: bool[b, p], pairs that are there. NumPy or JAX arrays; or, as in any tree, shapes or shardings.
    """

    inputs: Any
    outputs: Any
    input_sizes: Any
    output_sizes: Any
    pair_mask: Any

    @property
    def input_mask(self) -> Bool[Array | np.ndarray, "*b p h w"]:
        """Cells of the canvas that are cells of the input grid."""
        return cells_within(self.input_sizes, self.inputs.shape[-1])

    @property
    def output_mask(self) -> Bool[Array | np.ndarray, "*b p h w"]:
        """Cells of the canvas that are cells of the output grid; none where the output is hidden."""
        return cells_within(self.output_sizes, self.outputs.shape[-1])


def cells_within(sizes: Any, side: int) -> Any:
    """bool[..., side, side] from sizes int[..., 2]: cell (i, j) is inside where i < height and j < width."""
    line = np.arange(side, dtype=np.int32)
    return (line[:, None] < sizes[..., 0, None, None]) & (line < sizes[..., 1, None, None])


def buckets(tasks: Iterable[Task]) -> dict[int, tuple[Task, ...]]:
    """Canvas side -> the tasks of that scale, for each of the sides 5, 10, 15, 20, 25, 30 that has any."""
    found: dict[int, list[Task]] = {}
    for task in tasks:
        found.setdefault(SIDES[task.scale], []).append(task)
    return {side: tuple(found[side]) for side in SIDES if side in found}


def pad_episode(
    tasks: Sequence[Task], side: int, demonstrations: int, queries: Sequence[int] | None = None
) -> GridEpisode:
    """Each task's demonstrations in order, then its test pair `queries[i]` (the first if not given) as the query.

    Raises UserError where a task has more demonstrations than `demonstrations` or a grid larger than the canvas: at use
    nothing is dropped in silence.
    """
    queries = [0] * len(tasks) if queries is None else queries
    rows: list[Pair | None] = []
    for task, query in zip(tasks, queries, strict=True):
        if len(task.train) > demonstrations or task.max_side > side:
            raise UserError(
                f"task {task.id}: expected at most {demonstrations} demonstrations with sides up to {side}, "
                f"got {len(task.train)} with sides up to {task.max_side}; take a larger bucket"
            )
        rows += [*task.train, *[None] * (demonstrations - len(task.train)), task.test[query]]
    return _take(_pad(rows, side), np.arange(len(rows)).reshape(len(tasks), demonstrations + 1))


class EpisodeSampler:
    """Episodes of random tasks that fit on side x side cells, as a pure function of (seed, step).

    For TRAINING tasks: the query is any pair of the task whose output is known, test pairs included. Tasks with fewer
    than two such pairs are left out. All pairs are padded once, so that a batch is a gather of rows.
    """

    def __init__(self, tasks: Iterable[Task], side: int, batch: int, demonstrations: int):
        known = [[pair for pair in task.pairs if pair.output is not None] for task in tasks if task.max_side <= side]
        known = [pairs for pairs in known if len(pairs) > 1]
        if not known:
            raise UserError(
                f"expected training tasks with sides up to {side}, got none; "
                "choose a larger side or other training data"
            )
        self.tasks, self.side, self.batch, self.demonstrations = len(known), side, batch, demonstrations
        self._counts = np.array([len(pairs) for pairs in known])
        self._first = np.cumsum(self._counts) - self._counts
        absent: list[Pair | None] = [None]
        self._store = _pad([pair for pairs in known for pair in pairs] + absent, side)

    def batch_at(self, seed: int, step: int) -> GridEpisode:
        """`batch` tasks drawn with replacement; of each a random query and up to `demonstrations` other pairs."""
        rng = np.random.default_rng((seed, step))
        task = rng.integers(self.tasks, size=self.batch)
        counts = self._counts[task, None]
        slots = max(int(self._counts.max()), self.demonstrations + 1)
        # A random order of each task's pairs: sort random keys, those past the task's last pair behind all others.
        order = np.argsort(rng.random((self.batch, slots)) + (np.arange(slots) >= counts), axis=1)
        chosen = np.roll(order[:, : self.demonstrations + 1], -1, axis=1)  # the first drawn is the query: put it last
        index = np.where(chosen < counts, self._first[task, None] + chosen, len(self._store.pair_mask) - 1)
        return _take(self._store, index)


def _pad(pairs: Sequence[Pair | None], side: int) -> GridEpisode:
    """Pairs on canvases, leading axis one per pair; None is an absent pair."""
    grids = np.full((2, len(pairs), side, side), OUTSIDE, np.int8)
    sizes = np.zeros((2, len(pairs), 2), np.int32)
    for i, pair in enumerate(pairs):
        for grid, canvas, size in zip((pair.input, pair.output) if pair else (), grids, sizes, strict=False):
            if grid is not None:
                size[i] = grid.shape
                canvas[i, : grid.shape[0], : grid.shape[1]] = grid
    return GridEpisode(*grids, *sizes, pair_mask=np.array([pair is not None for pair in pairs]))


def _take(store: GridEpisode, index: np.ndarray) -> GridEpisode:
    return jax.tree.map(lambda rows: rows[index], store)
