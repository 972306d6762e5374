"""Views of ARC tasks, each with its exact inverse: the eight dihedral maps times permutations of the colours.

Map v of 0..7 is v % 4 quarter turns anticlockwise (`numpy.rot90`), then a transposition if v >= 4: v = T^t R^r with
t = v // 4 and r = v % 4. Since R T = T R^-1, (T^t R^r)(T^s R^q) = T^(t+s) R^(q + (-1)^s r).

All of it on the host; training episodes are turned and recoloured on the device (`solver.episodes.augment`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxsrc.data.arc import COLORS, Pair, Task

DIHEDRALS = 8
Black = Literal["fixed", "free"]
"""Whether colour 0, the background of most tasks, keeps its name in random permutations."""

_T, _R = np.divmod(np.arange(DIHEDRALS), 4)
COMPOSED = 4 * (_T[:, None] ^ _T) + (_R + np.where(_T, -_R[:, None], _R[:, None])) % 4
"""int[8, 8]: COMPOSED[a, b] is the map that does b first, then a."""
INVERSE = np.argmin(COMPOSED, axis=1)
"""int[8]: INVERSE[a] undoes a."""


@dataclass(frozen=True)
class View:
    """dihedral: one of the eight maps; permutation: int[10], the new name of each colour."""

    dihedral: int
    permutation: np.ndarray


def views(permutations: int = 1, seed: int = 0, black: Black = "fixed") -> list[View]:
    """All eight dihedral maps under each of `permutations` colourings: first the identity, then random ones.

    A function of its arguments.
    """
    rng = np.random.default_rng((seed, permutations))
    first = 1 if black == "fixed" else 0
    names = np.arange(COLORS)
    tables = [names] + [np.append(names[:first], rng.permutation(names[first:])) for _ in range(permutations - 1)]
    return [View(which, table) for table in tables for which in range(DIHEDRALS)]


def dihedral(grid: np.ndarray, which: int) -> np.ndarray:
    """A grid [h, w, ...] under dihedral map `which`."""
    turned = np.rot90(grid, which % 4)
    return turned.swapaxes(0, 1) if which >= 4 else turned


def view_grid(grid: np.ndarray, view: View) -> np.ndarray:
    """A grid [h, w] of colours 0-9 in a view."""
    return np.ascontiguousarray(view.permutation.astype(grid.dtype)[dihedral(grid, view.dihedral)])


def unview_grid(grid: np.ndarray, view: View) -> np.ndarray:
    """The grid whose `view_grid` is the given one: takes a prediction made in a view back to the task."""
    names = np.argsort(view.permutation).astype(grid.dtype)
    return np.ascontiguousarray(names[dihedral(grid, int(INVERSE[view.dihedral]))])


def view_task(task: Task, view: View) -> Task:
    """The task with every grid in the same view; its id stays."""

    def seen(pair: Pair) -> Pair:
        return Pair(view_grid(pair.input, view), None if pair.output is None else view_grid(pair.output, view))

    return Task(task.id, task.source, tuple(map(seen, task.train)), tuple(map(seen, task.test)))
