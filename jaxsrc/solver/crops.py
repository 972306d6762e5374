"""Windows of a grid that an output may be cut from: boxes of objects picked by a property, and halves."""

from __future__ import annotations

import numpy as np

from jaxsrc.solver.objects import EIGHT, FOUR, Component, background, components

Box = tuple[int, int, int, int]  # top, bottom (exclusive), left, right (exclusive)


def _bounds(mask: np.ndarray) -> Box | None:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _symmetry(c: Component) -> int:
    return int((c.colors == c.colors[:, ::-1]).all()) + int((c.colors == c.colors[::-1]).all())


def _odd_cells(c: Component) -> int:
    """Distinct colours first, then how many cells differ from the component's main colour."""
    counts = c.color_counts()
    return 1000 * int((counts > 0).sum()) + c.size - int(counts.max())


def _picked(found: list[Component]) -> dict[str, Component]:
    """One component per property; the first in reading order where several tie."""
    shapes = [c.shape_key for c in found]
    pictures = [c.picture_key for c in found]
    measures = {
        "size": [c.size for c in found],
        "box": [c.mask.size for c in found],
        "colors": [int((c.color_counts() > 0).sum()) for c in found],
        "shape count": [shapes.count(s) for s in shapes],
        "picture count": [pictures.count(p) for p in pictures],
        "symmetry": [_symmetry(c) for c in found],
        "top": [c.rows.start for c in found],
        "bottom": [c.rows.stop for c in found],
        "left": [c.columns.start for c in found],
        "right": [c.columns.stop for c in found],
        "odd cells": [_odd_cells(c) for c in found],
    }
    picked = {}
    for name, values in measures.items():
        picked[f"most {name}"] = found[int(np.argmax(values))]
        picked[f"least {name}"] = found[int(np.argmin(values))]
    return picked


def boxes(grid: np.ndarray) -> dict[str, Box]:
    """Named windows of a grid: int[h, w] -> {name: box}, in a fixed order of preference."""
    base = background(grid)
    counts = np.bincount(grid.ravel(), minlength=10)
    present = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c] and c != base]
    named: dict[str, Box | None] = {"all but background": _bounds(grid != base)}
    if present:
        named["most frequent color"] = _bounds(grid == present[0])
        named["least frequent color"] = _bounds(grid == present[-1])
    named |= {f"color {c}": _bounds(grid == c) for c in sorted(present)}
    for kind, structure, one_color in (
        ("four", FOUR, True),
        ("eight", EIGHT, True),
        ("any", EIGHT, False),
        ("any four", FOUR, False),
    ):
        found = [c for c in components(grid, base, structure, one_color)[1] if not c.is_background]
        if found:
            named |= {f"{kind}, {name}": c.box for name, c in _picked(found).items()}
    h, w = grid.shape
    full: dict[str, Box] = {}
    for name, box in named.items():
        if box is None:
            continue
        full[name] = box
        top, bottom, left, right = box
        if bottom - top > 2 and right - left > 2:
            full[f"inside {name}"] = (top + 1, bottom - 1, left + 1, right - 1)
    halves = {
        "left half": (0, h, 0, w // 2),
        "right half": (0, h, (w + 1) // 2, w),
        "top half": (0, h // 2, 0, w),
        "bottom half": ((h + 1) // 2, h, 0, w),
        "top left quarter": (0, (h + 1) // 2, 0, (w + 1) // 2),
        "left half and middle": (0, h, 0, (w + 1) // 2),
        "top half and middle": (0, (h + 1) // 2, 0, w),
    }
    return full | {name: b for name, b in halves.items() if b[1] > b[0] and b[3] > b[2]}


def cut(grid: np.ndarray, box: Box) -> np.ndarray:
    return grid[box[0] : box[1], box[2] : box[3]]
