"""Connected components of a grid, and the sections that are constant on (or measured within) each component."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxsrc.solver import regions
from jaxsrc.solver.regions import EIGHT, FOUR

__all__ = ["EIGHT", "FOUR"]

NONE = 10  # the "no colour" symbol, also what lies outside the grid

BLACK_SHARE = 0.25  # black counts as background as soon as it covers this share of the grid


def background(grid: np.ndarray) -> int:
    """The colour everything else lies on: black where there is enough of it, else the most frequent colour."""
    counts = np.bincount(grid.ravel(), minlength=10)
    return 0 if counts[0] >= BLACK_SHARE * grid.size else int(counts.argmax())


@dataclass(frozen=True)
class Component:
    """One connected component: its window, its mask inside the window, and the window's colours."""

    rows: slice
    columns: slice
    mask: np.ndarray
    colors: np.ndarray
    is_background: bool

    @property
    def size(self) -> int:
        return int(self.mask.sum())

    @property
    def window(self) -> tuple[slice, slice]:
        return self.rows, self.columns

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.rows.start, self.rows.stop, self.columns.start, self.columns.stop

    @property
    def shape_key(self) -> tuple:
        return self.mask.shape, self.mask.tobytes()

    @property
    def picture_key(self) -> tuple:
        return self.mask.shape, (self.colors * self.mask).tobytes()

    def color_counts(self) -> np.ndarray:
        return np.bincount(self.colors[self.mask], minlength=10)


def components(
    grid: np.ndarray, base: int, structure: np.ndarray, one_color: bool
) -> tuple[np.ndarray, list[Component]]:
    """Label map int[h, w] (0: none) and components, of equal colour (`one_color`) or of anything but `base`."""
    if one_color:
        labels, count = np.zeros(grid.shape, int), 0
        for color in np.unique(grid):
            part, found = regions.label(grid == color, structure)
            labels[part > 0] = part[part > 0] + count
            count += found
    else:
        labels, count = regions.label(grid != base, structure)
    found_list = []
    for index, window in enumerate(regions.windows(labels, count)):
        mask = labels[window] == index + 1
        colors = grid[window]
        found_list.append(Component(window[0], window[1], mask, colors, bool((colors[mask] == base).all())))
    return labels, found_list


def holes(mask: np.ndarray) -> int:
    """Number of holes of a component's mask."""
    if min(mask.shape) < 3:
        return 0
    filled = regions.fill_holes(mask)
    return regions.label(filled & ~mask)[1] if filled.sum() > mask.sum() else 0


def enclosed(grid: np.ndarray, base: int, structure: np.ndarray) -> np.ndarray:
    """bool[h, w]: background cells that no background path joins to the border."""
    labels, _ = regions.label(grid == base, structure)
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return (labels > 0) & ~np.isin(labels, rim)


def component_sections(grid: np.ndarray, base: int, found: list[Component]) -> dict[str, np.ndarray]:
    """Sections int16[h, w] of component attributes; 0 where a cell lies in no component.

    Counts are capped so that a value seen once in a demonstration is likely to be seen again.
    """
    h, w = grid.shape
    names = (
        *("size", "size_rank", "border", "largest", "smallest", "height", "width", "solid", "top", "bottom", "left"),
        *("right", "colors", "twins", "holes", "equal_size", "first", "second"),
    )
    field = {name: np.zeros((h, w), np.int16) for name in names}
    field["first"][:] = field["second"][:] = NONE
    shown = [c for c in found if not c.is_background]
    sizes = [c.size for c in shown]
    ranking = sorted(set(sizes), reverse=True)
    shapes = [c.shape_key for c in shown]
    for c in found:
        window, mask, size = c.window, c.mask, c.size
        bh, bw = mask.shape
        counts = c.color_counts()
        order = np.argsort(-counts, kind="stable")
        row, column = np.nonzero(mask)
        values = {
            "size": min(size, 20),
            "border": 1 + int(c.rows.start == 0 or c.columns.start == 0 or c.rows.stop == h or c.columns.stop == w),
            "height": min(bh, 12),
            "width": min(bw, 12),
            "solid": 1 + int(size == bh * bw),
            "holes": 1 + min(holes(mask), 5),
            "colors": int((counts > 0).sum()),
            "first": int(order[0]),
            "second": int(order[1]) if counts[order[1]] else NONE,
            "top": np.minimum(row, 9),
            "bottom": np.minimum(bh - 1 - row, 9),
            "left": np.minimum(column, 9),
            "right": np.minimum(bw - 1 - column, 9),
        }
        if not c.is_background:
            values |= {
                "size_rank": 1 + min(ranking.index(size), 6),
                "largest": 1 + int(size == ranking[0]),
                "smallest": 1 + int(size == ranking[-1]),
                "twins": 1 + min(shapes.count(c.shape_key) - 1, 4),
                "equal_size": 1 + min(sizes.count(size) - 1, 3),
            }
        for name, value in values.items():
            field[name][window][mask] = value
    return field
