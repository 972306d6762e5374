"""Completion of a picture that is the restriction of a symmetric one: cells hidden under one colour are filled from their orbit.

The visible cells are a section over part of the grid; a group of translations or reflections under which they are constant
on orbits extends it to every orbit that they meet. Where several symmetries fit equally well the first one counts.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxsrc.solver.objects import NONE

MAX_HIDDEN = 0.5  # share of the grid that may be hidden


def _orbit_fill(grid: np.ndarray, hidden: np.ndarray, orbit: np.ndarray) -> np.ndarray | None:
    """Each hidden cell takes the one colour of its orbit; None if an orbit shows two colours or none."""
    seen = np.zeros((int(orbit.max()) + 1, 10), bool)
    seen[orbit[~hidden], grid[~hidden]] = True
    if (seen.sum(1) > 1).any() or not seen[orbit[hidden]].any(1).all():
        return None
    return np.where(hidden, seen.argmax(1)[orbit], grid)


def _lattices(h: int, w: int) -> Iterator[np.ndarray]:
    """Orbit maps of the translation lattices, smallest cell first: axis-parallel periods and diagonal stripes."""
    r, c = np.mgrid[:h, :w]
    pairs = [(a, b) for a in range(1, h // 2 + 1) for b in range(1, w // 2 + 1) if (a, b) != (1, 1)]
    stripes = [(p, s) for p in range(2, max(h, w) // 2 + 1) for s in (1, -1)]
    choices = [(a * b, (a, b), 0) for a, b in pairs] + [(p, (p, s), 1) for p, s in stripes]
    for _, (a, b), kind in sorted(choices):
        yield (r % a) * b + c % b if kind == 0 else (r + b * c) % a


def translated(grid: np.ndarray, color: int) -> np.ndarray | None:
    """The grid with cells of `color` filled by the smallest translation lattice that the other cells obey."""
    hidden = grid == color
    for orbit in _lattices(*grid.shape):
        filled = _orbit_fill(grid, hidden, orbit)
        if filled is not None:
            return filled
    return None


def _axis(grid: np.ndarray, hidden: np.ndarray) -> int | None:
    """Sum of mirrored column indices for the vertical axis nearest the middle that the visible cells obey."""
    w = grid.shape[1]
    for total in sorted(range(w // 2, 2 * w - 1 - w // 2), key=lambda t: abs(t - (w - 1))):
        left, right = max(0, total - w + 1), min(w - 1, total)
        window, cover = grid[:, left : right + 1], hidden[:, left : right + 1]
        visible = ~cover & ~cover[:, ::-1]
        if right - left + 1 >= 2 * w // 3 and (window == window[:, ::-1])[visible].all() and visible.any():
            return total
    return None


def _mirror(grid: np.ndarray, hidden: np.ndarray, total: int) -> tuple[np.ndarray, np.ndarray]:
    columns = total - np.arange(grid.shape[1])
    inside = (columns >= 0) & (columns < grid.shape[1])
    source = np.clip(columns, 0, grid.shape[1] - 1)
    take = hidden & inside & ~hidden[:, source]
    return np.where(take, grid[:, source], grid), hidden & ~take


def mirrored_fill(grid: np.ndarray, color: int) -> np.ndarray | None:
    """The grid with cells of `color` filled by the reflections that the other cells obey."""
    hidden = grid == color
    out = grid
    vertical, horizontal = _axis(grid, hidden), _axis(grid.T, hidden.T)
    square = grid.shape[0] == grid.shape[1]
    visible = ~hidden & ~hidden.T if square else hidden
    diagonal = square and bool((grid == grid.T)[visible].all())
    for _ in range(3):
        if vertical is not None:
            out, hidden = _mirror(out, hidden, vertical)
        if horizontal is not None:
            turned, left = _mirror(out.T, hidden.T, horizontal)
            out, hidden = turned.T, left.T
        if diagonal:
            take = hidden & ~hidden.T
            out, hidden = np.where(take, out.T, out), hidden & ~take
    return None if hidden.any() else out


def completions(grid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(by translation, by reflection), int[h, w] each, `NONE` everywhere if no colour can be filled.

    The hidden colour is the first, from the rarest up, whose cells can be filled.
    """
    counts = np.bincount(grid.ravel(), minlength=10)
    colors = [int(c) for c in np.argsort(counts, kind="stable") if 0 < counts[c] <= MAX_HIDDEN * grid.size]
    found: list[np.ndarray] = []
    for fill in (translated, mirrored_fill):
        filled = next((f for c in colors if (f := fill(grid, c)) is not None), None)
        found.append(np.full_like(grid, NONE) if filled is None else filled)
    return found[0], found[1]
