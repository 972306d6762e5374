"""Views of ARC tasks, each with its exact inverse: the eight dihedral maps times permutations of the colours.

Map v of 0..7 is v % 4 quarter turns anticlockwise (`numpy.rot90`), then a transposition if v >= 4: v = T^t R^r with
t = v // 4 and r = v % 4. Since R T = T R^-1, (T^t R^r)(T^s R^q) = T^(t+s) R^(q + (-1)^s r).

On a canvas a grid stays anchored top-left: rows and columns are reversed within the grid's own height and width, by
index arithmetic, so that nothing depends on the data but the values of indices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int8

from jaxsrc.data.arc import COLORS, Pair, Task
from jaxsrc.data.arc_buckets import GridEpisode

DIHEDRALS = 8
Black = Literal["fixed", "free"]
"""Whether colour 0, the background of most tasks, keeps its name in random permutations."""

# Each map written as: transpose first, then reverse the rows, then reverse the columns.
_TRANSPOSES = np.array([0, 1, 0, 1, 1, 0, 1, 0], bool)
_REVERSES_ROWS = np.array([0, 1, 1, 0, 0, 0, 1, 1], bool)
_REVERSES_COLUMNS = np.array([0, 0, 1, 1, 0, 1, 1, 0], bool)

_T, _R = np.divmod(np.arange(DIHEDRALS), 4)
COMPOSED = 4 * (_T[:, None] ^ _T) + (_R + np.where(_T, -_R[:, None], _R[:, None])) % 4
"""int[8, 8]: COMPOSED[a, b] is the map that does b first, then a."""
INVERSE = np.argmin(COMPOSED, axis=1)
"""int[8]: INVERSE[a] undoes a."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class View:
    """dihedral: int32[], one of the eight maps; permutation: int32[10], the new name of each colour. NumPy or JAX."""

    dihedral: Any
    permutation: Any


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Canvas:
    """grid: int8[h, h], a grid anchored top-left on a square canvas; size: int32[2], its height and width."""

    grid: Any
    size: Any


def turn(canvas: Canvas, which: Int[Array, ""]) -> Canvas:
    """The canvas under dihedral map `which`, its grid anchored top-left again, height and width swapped as needed."""
    transposes = jnp.asarray(_TRANSPOSES)[which]
    grid = jnp.where(transposes, canvas.grid.T, canvas.grid)
    size = jnp.where(transposes, canvas.size[::-1], canvas.size)
    side = grid.shape[0]
    # h - 1 - i reverses 0..h-1; modulo the side it reverses h..side-1 among themselves: a permutation for every h.
    line = jnp.arange(side, dtype=size.dtype)
    rows = jnp.where(jnp.asarray(_REVERSES_ROWS)[which], (size[0] - 1 - line) % side, line)
    columns = jnp.where(jnp.asarray(_REVERSES_COLUMNS)[which], (size[1] - 1 - line) % side, line)
    return Canvas(grid[rows][:, columns], size)


def recolor(grid: Int8[Array, "*n"], permutation: Int[Array, "10"]) -> Int8[Array, "*n"]:
    """Colour c becomes permutation[c]; cells outside the grid (negative) stay."""
    return jnp.where(grid < 0, grid, permutation.astype(grid.dtype)[jnp.maximum(grid, 0)])


def view_episode(view: View, episode: GridEpisode) -> GridEpisode:
    """The episode of one task ([p, ...]) with every grid in the same view."""
    which, permutation = jnp.asarray(view.dihedral), jnp.asarray(view.permutation)

    def seen(grids: Array, sizes: Array) -> Canvas:
        turned = jax.vmap(turn, in_axes=(0, None))(Canvas(grids, sizes), which)
        return Canvas(recolor(turned.grid, permutation), turned.size)

    inputs, outputs = (
        seen(jnp.asarray(grids), jnp.asarray(sizes))
        for grids, sizes in ((episode.inputs, episode.input_sizes), (episode.outputs, episode.output_sizes))
    )
    return GridEpisode(inputs.grid, outputs.grid, inputs.size, outputs.size, jnp.asarray(episode.pair_mask))


def random_view(key: Array, black: Black = "fixed") -> View:
    """A dihedral map and a permutation of the colours (of 1-9 where black is fixed), both uniform."""
    turning, coloring = jax.random.split(key)
    first = 1 if black == "fixed" else 0
    moved = jax.random.permutation(coloring, jnp.arange(first, COLORS, dtype=jnp.int32))
    permutation = jnp.concatenate([jnp.arange(first, dtype=jnp.int32), moved])
    return View(jax.random.randint(turning, (), 0, DIHEDRALS, jnp.int32), permutation)


def augment_episode(key: Array, episode: GridEpisode, black: Black = "fixed") -> GridEpisode:
    """Every task of a batch ([b, p, ...]) in one random view of its own, the same for all its pairs."""
    keys = jax.random.split(key, episode.pair_mask.shape[0])
    return jax.vmap(lambda key, task: view_episode(random_view(key, black), task))(keys, episode)


def inverse(view: View) -> View:
    """The view that undoes `view`."""
    return View(jnp.asarray(INVERSE)[view.dihedral], jnp.argsort(view.permutation))


def compose(after: View, before: View) -> View:
    """The view that does `before` first, then `after`."""
    return View(jnp.asarray(COMPOSED)[after.dihedral, before.dihedral], after.permutation[before.permutation])


def views(permutations: int = 1, seed: int = 0, black: Black = "fixed") -> list[View]:
    """All eight dihedral maps under each of `permutations` colourings: first the identity, then random ones.

    A function of its arguments; NumPy values, for use on the host with `view_task` and `unview_grid`.
    """
    rng = np.random.default_rng((seed, permutations))
    first = 1 if black == "fixed" else 0
    names = np.arange(COLORS)
    tables = [names] + [np.append(names[:first], rng.permutation(names[first:])) for _ in range(permutations - 1)]
    return [View(np.array(which), table) for table in tables for which in range(DIHEDRALS)]


def dihedral(grid: np.ndarray, which: int) -> np.ndarray:
    """A single grid [h, w] under dihedral map `which`, on the host."""
    turned = np.rot90(grid, which % 4)
    return turned.T if which >= 4 else turned


def view_grid(grid: np.ndarray, view: View) -> np.ndarray:
    """A single grid of colours 0-9 in a view, on the host."""
    return np.ascontiguousarray(np.asarray(view.permutation, grid.dtype)[dihedral(grid, int(view.dihedral))])


def unview_grid(grid: np.ndarray, view: View) -> np.ndarray:
    """The grid whose `view_grid` is the given one: takes a prediction made in a view back to the task."""
    names = np.argsort(np.asarray(view.permutation)).astype(grid.dtype)
    return np.ascontiguousarray(names[dihedral(grid, int(INVERSE[int(view.dihedral)]))])


def view_task(task: Task, view: View) -> Task:
    """The task with every grid in the same view; its id stays."""

    def seen(pair: Pair) -> Pair:
        return Pair(view_grid(pair.input, view), None if pair.output is None else view_grid(pair.output, view))

    return Task(task.id, task.source, tuple(map(seen, task.train)), tuple(map(seen, task.test)))
