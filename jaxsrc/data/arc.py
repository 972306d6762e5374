"""ARC tasks in memory: pairs of grids, the scale of a task, its content digest, and the guard against leaks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from jaxsrc.errors import UserError

COLORS = 10
MAX_SIDE = 30
SIDES = (5, 10, 15, 20, 25, 30)
"""Canvas side of each scale: a task of scale s has no side above SIDES[s]."""

DEVELOPMENT_FOLDS = 10
NAMED_LEAKS = 5


@dataclass(frozen=True, eq=False)
class Pair:
    """An input grid uint8[h, w] and its output grid uint8[h, w], or None where the output is hidden."""

    input: np.ndarray
    output: np.ndarray | None

    @cached_property
    def digest(self) -> str:
        """Hash of both grids, sizes included; a hidden output hashes unlike any grid."""
        content = hashlib.sha256()
        for grid in (self.input, self.output):
            content.update(b"hidden" if grid is None else b"%d,%d:" % grid.shape + grid.astype(np.uint8).tobytes())
        return content.hexdigest()


@dataclass(frozen=True, eq=False)
class Task:
    """An ARC task: demonstrations (`train`, outputs known) and test pairs, under the id its source gives it."""

    id: str
    source: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Demonstrations first, then test pairs."""
        return self.train + self.test

    @cached_property
    def max_side(self) -> int:
        """The largest side over all grids that are known."""
        return max(side for pair in self.pairs for grid in _known(pair) for side in grid.shape)

    @property
    def scale(self) -> int:
        """0: sides up to 5, 1: 6-10, 2: 11-15, 3: 16-20, 4: 21-25, 5: 26-30, by the largest side over all grids."""
        return scale_of(self.max_side)

    @cached_property
    def same_size(self) -> bool:
        """Whether every known output has the size of its input."""
        return all(pair.output is None or pair.output.shape == pair.input.shape for pair in self.pairs)

    @cached_property
    def digest(self) -> str:
        """Hash of the content alone: neither the id, nor the order of the pairs, nor which of them are tests."""
        return hashlib.sha256("".join(sorted(pair.digest for pair in self.pairs)).encode()).hexdigest()


@dataclass(frozen=True)
class Split:
    """Training tasks, and the development tasks held out of them for every choice that is made by score."""

    training: tuple[Task, ...]
    development: tuple[Task, ...]


def scale_of(side: int) -> int:
    """The scale 0..5 whose canvas is the smallest that holds a grid of this side."""
    if not 1 <= side <= MAX_SIDE:
        raise UserError(f"expected a grid side of 1 to {MAX_SIDE}, got {side}; leave this grid out")
    return (max(side, SIDES[0]) - 1) // 5


def deduplicate(tasks: Iterable[Task]) -> tuple[Task, ...]:
    """The tasks, in the given order, that share neither id nor content with one kept before them."""
    ids: set[str] = set()
    digests: set[str] = set()
    kept = []
    for task in tasks:
        if task.id not in ids and task.digest not in digests:
            kept.append(task)
            ids.add(task.id)
            digests.add(task.digest)
    return tuple(kept)


@dataclass(frozen=True)
class Leak:
    """A training task that gives away a scored one, and how: "id", "content" or "test pair"."""

    training: Task
    scored: Task
    how: str


def leaks(training: Iterable[Task], scored: Iterable[Task]) -> Iterator[Leak]:
    """Each training task that shares its id or content with a scored task, or contains one of its test pairs.

    A test pair is contained when a pair of the training task, demonstration or test, has the same input and output; a
    scored pair whose output is hidden is matched by its input. Outputs alone would accuse any two one-cell answers.
    """
    by_id, by_digest, by_pair, by_input = {}, {}, {}, {}
    for task in scored:
        by_id.setdefault(task.id, task)
        by_digest.setdefault(task.digest, task)
        for pair in task.test:
            if pair.output is None:
                by_input.setdefault(_input_key(pair), task)
            else:
                by_pair.setdefault(pair.digest, task)
    for task in training:
        if task.id in by_id:
            yield Leak(task, by_id[task.id], "id")
        elif task.digest in by_digest:
            yield Leak(task, by_digest[task.digest], "content")
        else:
            for pair in task.pairs:
                owner = by_pair.get(pair.digest) or by_input.get(_input_key(pair))
                if owner is not None:
                    yield Leak(task, owner, "test pair")
                    break


def refuse_leaks(training: Iterable[Task], scored: Iterable[Task]) -> None:
    """Raise UserError naming the training tasks that give away a scored one; return if there are none."""
    found = list(leaks(training, scored))
    if found:
        named = ", ".join(
            f"{a.id} of {a.source} (same {how} as {b.id} of {b.source})"
            for a, b, how in ((leak.training, leak.scored, leak.how) for leak in found[:NAMED_LEAKS])
        )
        more = f" and {len(found) - NAMED_LEAKS} more" if len(found) > NAMED_LEAKS else ""
        raise UserError(
            f"expected no training task whose test output is scored, got {len(found)}: {named}{more}; "
            "exclude the scored set from the training data"
        )


def without_leaks(training: Iterable[Task], scored: Iterable[Task]) -> tuple[Task, ...]:
    """The training tasks that `refuse_leaks` has nothing against."""
    training = tuple(training)
    refused = {id(leak.training) for leak in leaks(training, scored)}
    return tuple(task for task in training if id(task) not in refused)


def split_development(tasks: Sequence[Task]) -> Split:
    """Hold out about a tenth for development, decided by each task's content alone.

    A task is on the same side whatever else is in the pool, in whichever order and under whichever id.
    """
    held_out = [int(task.digest[:8], 16) % DEVELOPMENT_FOLDS == 0 for task in tasks]
    return Split(
        training=tuple(task for task, held in zip(tasks, held_out, strict=True) if not held),
        development=tuple(task for task, held in zip(tasks, held_out, strict=True) if held),
    )


def _known(pair: Pair) -> tuple[np.ndarray, ...]:
    return (pair.input,) if pair.output is None else (pair.input, pair.output)


def _input_key(pair: Pair) -> tuple[tuple[int, ...], bytes]:
    return pair.input.shape, pair.input.astype(np.uint8).tobytes()
