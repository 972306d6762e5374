"""Colours brought to a cell from elsewhere in its grid: fallen, nearest, at the ends of its lines, in the corners, by partner."""

from __future__ import annotations

import numpy as np

from jaxsrc.solver import regions
from jaxsrc.solver.objects import NONE, Component


def fallen(grid: np.ndarray, base: int) -> list[np.ndarray]:
    """The grid after everything but `base` has fallen up, down, left and right."""

    def down(g: np.ndarray) -> np.ndarray:
        order = np.argsort(g != base, axis=0, kind="stable")
        return np.take_along_axis(g, order, 0)

    return [down(grid[::-1])[::-1], down(grid), down(grid.T[::-1])[::-1].T, down(grid.T).T]


def line_ends(grid: np.ndarray) -> list[np.ndarray]:
    """Colours at the top and bottom of a cell's column, and at the left and right of its row."""
    wide = lambda line, axis: np.broadcast_to(np.expand_dims(line, axis), grid.shape)
    return [wide(grid[0], 0), wide(grid[-1], 0), wide(grid[:, 0], 1), wide(grid[:, -1], 1)]


def corners(grid: np.ndarray) -> list[np.ndarray]:
    """The four corner colours: up-left, up-right, down-left, down-right."""
    return [np.full_like(grid, grid[r, c]) for r in (0, -1) for c in (0, -1)]


def nearest(grid: np.ndarray, base: int) -> tuple[np.ndarray, np.ndarray]:
    """Colour nearest to each cell, background aside (`NONE` where two are equally near), and the chessboard distance <= 9."""
    shown = grid != base
    if not shown.any():
        return np.full_like(grid, NONE), np.full_like(grid, 9)
    colors = np.unique(grid[shown])
    away = np.stack([regions.euclidean(grid == c) for c in colors])
    closest = away.min(0)
    tied = (away <= closest + 1e-6).sum(0) > 1
    distance = regions.chessboard(shown)
    return np.where(tied, NONE, colors[away.argmin(0)]), np.minimum(distance, 9)


def partner(grid: np.ndarray, base: int) -> np.ndarray:
    """For every cell the colour that most often touches its own colour elsewhere, background aside (a legend's entry)."""
    touch = np.zeros((10, 10), int)
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
        np.add.at(touch, (a.ravel(), b.ravel()), 1)
        np.add.at(touch, (b.ravel(), a.ravel()), 1)
    np.fill_diagonal(touch, 0)
    touch[base] = touch[:, base] = 0
    return np.where(touch.max(1) > 0, touch.argmax(1), NONE)[grid]


def local_majority(grid: np.ndarray) -> np.ndarray:
    """Most frequent colour of the 3 x 3 neighbourhood, the centre's own among equals."""
    h, w = grid.shape
    shown = np.pad(np.eye(10, dtype=int)[grid], ((1, 1), (1, 1), (0, 0)))
    counts = sum(shown[a : a + h, b : b + w] for a in range(3) for b in range(3))
    return (2 * counts + shown[1:-1, 1:-1]).argmax(-1)


def box_colors(shape: tuple[int, int], found: list[Component]) -> np.ndarray:
    """Main colour of the smallest object whose bounding box holds the cell; one-cell-wide objects have no inside."""
    out = np.full(shape, NONE)
    for c in sorted((c for c in found if not c.is_background), key=lambda c: -c.mask.size):
        if min(c.mask.shape) > 1:
            out[c.window] = c.color_counts().argmax()
    return out
