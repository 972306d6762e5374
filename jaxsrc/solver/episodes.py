"""Training episodes: a task's pairs under a fitting canvas, as stalks in static shapes; views and colours drawn on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxsrc.data.arc import Task
from jaxsrc.data.augment import dihedral
from jaxsrc.errors import UserError
from jaxsrc.solver.canvas import Canvas, hypotheses
from jaxsrc.solver.objects import NONE
from jaxsrc.solver.sections import SOURCES, Sections, sections
from jaxsrc.solver.stalks import ATTRIBUTE_ORDERS, ATTRIBUTES, SOURCE_ORDERS, attributes

HIDDEN = -1  # target of cells outside the canvas and of unknown cells


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Episode:
    """One task (or a batch, with leading axes): p - 1 demonstrations and, last, the query, on h x w cells.

    sources: int8[*b, p, h, w, s], colours 0-10 that a cell may copy; attributes: int8[*b, p, h, w, a], raw stalk values;
    colors: int8[*b, p, h, w], 0-9, `HIDDEN` outside. Host arrays, device arrays or shapes alone.
    """

    sources: Any
    attributes: Any
    colors: Any

    @property
    def mask(self) -> Bool[Array, "*b p h w"]:
        return self.colors >= 0


@dataclass(frozen=True)
class StalkPair:
    """A pair under a canvas: sources int8[h, w, s], attributes int8[h, w, a], colors int8[h, w]."""

    sources: np.ndarray
    attributes: np.ndarray
    colors: np.ndarray

    @staticmethod
    def of(found: Sections, colors: np.ndarray) -> StalkPair:
        return StalkPair(found.sources.astype(np.int8), attributes(found), colors.astype(np.int8))


@dataclass(frozen=True)
class StalkTask:
    """A task under one canvas: demonstrations first, then the tests."""

    id: str
    canvas: str
    demonstrations: int
    pairs: list[StalkPair]

    @property
    def side(self) -> int:
        return max(max(p.colors.shape) for p in self.pairs)


def fitting_canvas(task: Task) -> Canvas | None:
    """First canvas that fits demonstrations and tests of a task whose test outputs are known."""
    outputs = known_outputs(task)
    demos = len(task.train)
    found = hypotheses([p.input for p in task.train], outputs[:demos], [p.input for p in task.test])
    for canvas in found:
        if all(layers[0].shape == o.shape for layers, o in zip(canvas.test, outputs[demos:], strict=True)):
            return canvas
    return None


def known_outputs(task: Task) -> list[np.ndarray]:
    """Outputs of all pairs; UserError if one is hidden."""
    outputs = [p.output for p in task.pairs if p.output is not None]
    if len(outputs) < len(task.pairs):
        raise UserError(f"expected known test outputs to train on, got none for task {task.id}; name another set in data.train")
    return outputs


def stalk_task(task: Task) -> StalkTask | None:
    """The task under its first fitting canvas, or None if no canvas fits."""
    canvas = fitting_canvas(task)
    if canvas is None:
        return None
    layers = [*canvas.train, *canvas.test]
    outputs = known_outputs(task)
    pairs = [StalkPair.of(sections(stack), output) for stack, output in zip(layers, outputs, strict=True)]
    return StalkTask(task.id, canvas.name, len(task.train), pairs)


def pack(pairs: Sequence[StalkPair | None], side: int) -> Episode:
    """Stack pairs on side x side cells; None is an absent pair."""
    sources = np.full((len(pairs), side, side, SOURCES), NONE, np.int8)
    values = np.zeros((len(pairs), side, side, ATTRIBUTES), np.int8)
    colors = np.full((len(pairs), side, side), HIDDEN, np.int8)
    for i, pair in enumerate(pairs):
        if pair is not None:
            h, w = pair.colors.shape
            sources[i, :h, :w], values[i, :h, :w], colors[i, :h, :w] = pair.sources, pair.attributes, pair.colors
    return Episode(sources, values, colors)


class EpisodeSampler:
    """Episodes of `batch` tasks that fit on side x side cells, as a pure function of (seed, step)."""

    def __init__(self, tasks: Sequence[StalkTask], side: int, batch: int, demonstrations: int):
        self.tasks = [t for t in tasks if t.side <= side]
        self.side, self.batch, self.demonstrations = side, batch, demonstrations
        self.first = np.cumsum([0] + [len(t.pairs) for t in self.tasks])
        absent: list[StalkPair | None] = [None]
        self.store = pack([p for t in self.tasks for p in t.pairs] + absent, side)

    def batch_at(self, seed: int, step: int) -> Episode:
        """A query and up to `demonstrations` other pairs of each of `batch` random tasks."""
        rng = np.random.default_rng((seed, step))
        index = np.full((self.batch, self.demonstrations + 1), self.first[-1])
        for row, task in zip(index, rng.integers(len(self.tasks), size=self.batch), strict=True):
            count = self.first[task + 1] - self.first[task]
            order = self.first[task] + rng.permutation(count)[: self.demonstrations + 1]
            row[: len(order) - 1] = order[1:]
            row[-1] = order[0]
        return Episode(self.store.sources[index], self.store.attributes[index], self.store.colors[index])


def _cell_orders(side: int) -> np.ndarray:
    """int[8, side * side]: cell i after a view is cell order[i] before it."""
    cells = np.arange(side * side).reshape(side, side)
    return np.stack([dihedral(cells, view).ravel() for view in range(8)])


def view(episode: Episode, which: int | Int[Array, ""]) -> Episode:
    """One task seen in view `which`; the canvas turns as a whole, so cells may end up away from the first corner."""
    p, h, w = episode.colors.shape
    cells = jnp.asarray(_cell_orders(h))[which]
    move = lambda x: jnp.take(x.reshape(p, h * w, -1), cells, axis=1)
    sources = jnp.take(move(episode.sources), jnp.asarray(SOURCE_ORDERS)[which], axis=-1)
    values = jnp.take(move(episode.attributes), jnp.asarray(ATTRIBUTE_ORDERS)[which], axis=-1)
    return Episode(
        sources.reshape(p, h, w, -1), values.reshape(p, h, w, -1), move(episode.colors).reshape(p, h, w)
    )


def recolor(episode: Episode, permutation: Int[Array, "10"]) -> Episode:
    """One task with colour c written permutation[c]; `NONE` and `HIDDEN` stay."""
    table = jnp.concatenate([permutation, jnp.array([NONE, HIDDEN])]).astype(jnp.int8)
    look = lambda x: jnp.take(table, x.astype(jnp.int32), axis=0)  # index -1 is the last entry: HIDDEN
    return Episode(look(episode.sources), episode.attributes, look(episode.colors))


def augment(key: Array, episode: Episode) -> Episode:
    """Every task of a batch in a random view and with random colours; black keeps its name four times in five."""

    def one(key: Array, episode: Episode) -> Episode:
        turn, colors, black = jax.random.split(key, 3)
        kept = jnp.concatenate([jnp.zeros(1, int), 1 + jax.random.permutation(colors, 9)])
        free = jax.random.permutation(colors, 10)
        permutation = jnp.where(jax.random.uniform(black) < 0.8, kept, free)
        return recolor(view(episode, jax.random.randint(turn, (), 0, 8)), permutation)

    return jax.vmap(one)(jax.random.split(key, episode.colors.shape[0]), episode)
