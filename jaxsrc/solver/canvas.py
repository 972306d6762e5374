"""Canvas hypotheses: where the output's cells come from.

A canvas maps an input grid to a stack of layers int[h, w], all of the output's size; the first is the picture that the
sections describe. A hypothesis is kept for a task only if it gives the right size on every demonstration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeGuard

import numpy as np

from jaxsrc.solver.crops import Box, boxes, cut
from jaxsrc.solver.objects import EIGHT, NONE, background, components
from jaxsrc.solver.symmetry import completions

Layers = list[np.ndarray]
Grids = Sequence[np.ndarray]
Build = Callable[[np.ndarray], Layers | None]
MAX_SIDE = 30
MAX_PANELS = 9
MAX_CROPS = 4
MAX_CONSTANT_CELLS = 100


@dataclass(frozen=True)
class Canvas:
    """A hypothesis applied to a task: layers of every demonstration and of every test input."""

    name: str
    train: list[Layers]
    test: list[Layers]


def mirrored(grid: np.ndarray) -> Layers:
    """The grid and its images under the two flips and the half turn."""
    return [grid, grid[:, ::-1], grid[::-1], grid[::-1, ::-1]]


def window(grid: np.ndarray, box: Box) -> Layers:
    """A window, its two flips, and the same window of the completed grid (of its half turn if nothing is hidden)."""
    layers = mirrored(cut(grid, box))
    filled = [f for f in completions(grid) if f[0, 0] != NONE]
    return [*layers[:3], cut(filled[-1], box)] if filled else layers


def transposed(grid: np.ndarray) -> Layers | None:
    """A square grid, its two reflections along the diagonals and its half turn."""
    return [grid, grid.T, grid[::-1, ::-1].T, grid[::-1, ::-1]] if grid.shape[0] == grid.shape[1] else None


def enlarged(grid: np.ndarray, a: int, b: int) -> Layers:
    """Every cell blown up to a x b cells, and the grid tiled a x b times."""
    return [np.kron(grid, np.ones((a, b), int)), np.tile(grid, (a, b))]


def tiled(grid: np.ndarray, a: int, b: int) -> Layers:
    """The grid and its mirror images tiled a x b times, and every cell blown up."""
    return [np.tile(layer, (a, b)) for layer in mirrored(grid)] + [np.kron(grid, np.ones((a, b), int))]


def parts(grid: np.ndarray, a: int, b: int) -> Layers | None:
    """The grid cut into a x b equal parts."""
    if grid.shape[0] % a or grid.shape[1] % b:
        return None
    return [part for row in np.split(grid, a, 0) for part in np.split(row, b, 1)]


def reduced(grid: np.ndarray, a: int, b: int) -> Layers | None:
    """Each block of a x b cells as one: its main foreground colour, its main colour, its first and last cell."""
    if grid.shape[0] % a or grid.shape[1] % b:
        return None
    h, w = grid.shape[0] // a, grid.shape[1] // b
    blocks = grid.reshape(h, a, w, b).transpose(0, 2, 1, 3).reshape(h, w, a * b)
    counts = np.eye(10, dtype=int)[blocks].sum(2)
    base = background(grid)
    foreground = counts.copy()
    foreground[..., base] = 0
    main = np.where(foreground.max(-1) > 0, foreground.argmax(-1), base)
    return [main, counts.argmax(-1), blocks[..., 0], blocks[..., -1]]


@dataclass(frozen=True)
class Partition:
    """Panels between full lines of one colour."""

    color: int
    rows: list[tuple[int, int]]
    columns: list[tuple[int, int]]

    @property
    def panels(self) -> int:
        return len(self.rows) * len(self.columns)


def _segments(length: int, lines: list[int]) -> list[tuple[int, int]]:
    out, start = [], 0
    for line in [*lines, length]:
        if line > start:
            out.append((start, line))
        start = line + 1
    return out


def partition(grid: np.ndarray) -> Partition | None:
    """Equal panels separated by full lines of one colour; the last such colour other than black wins."""
    best = None
    for color in range(10):
        match = grid == color
        rows = _segments(grid.shape[0], np.flatnonzero(match.all(1)).tolist())
        columns = _segments(grid.shape[1], np.flatnonzero(match.all(0)).tolist())
        if len(rows) * len(columns) < 2:
            continue
        if len({b - a for a, b in rows}) == 1 and len({b - a for a, b in columns}) == 1:
            best = Partition(color, rows, columns)
    return best


def panels(grid: np.ndarray) -> Layers | None:
    """The panels between separating lines, one layer each."""
    found = partition(grid)
    if found is None or found.panels > MAX_PANELS:
        return None
    return [grid[a:b, c:d] for a, b in found.rows for c, d in found.columns]


def panel_summary(grid: np.ndarray) -> Layers | None:
    """One cell a panel: main foreground colour, number of foreground cells, and whether that is the most or fewest."""
    found = partition(grid)
    if found is None or found.panels < 4:
        return None
    base = background(grid)
    base = 0 if base == found.color else base
    color = np.zeros((len(found.rows), len(found.columns)), int)
    count = np.zeros_like(color)
    for i, (a, b) in enumerate(found.rows):
        for j, (c, d) in enumerate(found.columns):
            counts = np.bincount(grid[a:b, c:d].ravel(), minlength=10)
            counts[base] = 0
            color[i, j] = counts.argmax() if counts.any() else base
            count[i, j] = min(counts.sum(), 9)
    return [color, count, (count == count.max()) * 1, (count == count.min()) * 1]


def constant(grid: np.ndarray, h: int, w: int) -> Layers:
    """A blank canvas of fixed size that knows the grid's most, least and second frequent colour and its counts."""
    base = background(grid)
    counts = np.bincount(grid.ravel(), minlength=10)
    present = [int(c) for c in np.argsort(-counts, kind="stable") if counts[c] and c != base]
    found = len(components(grid, base, EIGHT, one_color=False)[1])
    pick = lambda index: present[index] if present and index < len(present) else base
    values = [pick(0), pick(-1), pick(1), min(len(present), 9), min(found, 9)]
    return [np.full((h, w), value) for value in values]


def _ratio(inputs: list[tuple[int, int]], outputs: list[tuple[int, int]]) -> tuple[float, float] | None:
    """The one ratio of output to input sides that all pairs share, if there is one."""
    ratios = {(o[0] / i[0], o[1] / i[1]) for i, o in zip(inputs, outputs, strict=True)}
    return next(iter(ratios)) if len(ratios) == 1 else None


def _whole(ratio: tuple[float, float] | None) -> tuple[int, int] | None:
    """The ratio as two integers, if it is one and not (1, 1)."""
    if ratio is None or ratio == (1, 1) or min(ratio) < 1 or any(abs(r - round(r)) > 1e-9 for r in ratio):
        return None
    return round(ratio[0]), round(ratio[1])


def _sides(box: Box) -> tuple[int, int]:
    return box[1] - box[0], box[3] - box[2]


def _crops(inputs: Grids, outputs: Grids, test: Grids) -> Iterator[tuple[str, Build]]:
    """Windows of the right size on every demonstration, the most similar to the outputs first, equal ones once."""
    cache = {grid.tobytes() + bytes(grid.shape): boxes(grid) for grid in (*inputs, *test)}
    lookup = lambda grid: cache[grid.tobytes() + bytes(grid.shape)]
    named, named_test = [lookup(g) for g in inputs], [lookup(g) for g in test]
    fitting = [
        name
        for name in named[0]
        if all(name in b and _sides(b[name]) == o.shape for b, o in zip(named, outputs, strict=True))
    ]
    alike = lambda name: np.mean(
        [np.mean(cut(i, b[name]) == o) for i, o, b in zip(inputs, outputs, named, strict=True)]
    )
    seen = set()
    for name in sorted(fitting, key=alike, reverse=True):
        signature = tuple(b.get(name) for b in (*named, *named_test))
        if signature in seen:
            continue
        seen.add(signature)
        if len(seen) > MAX_CROPS:
            break
        yield f"crop: {name}", lambda g, name=name: window(g, lookup(g)[name]) if name in lookup(g) else None
    for name in ("all but background", "eight, most size"):
        if all(name in b for b in named):
            scale = _whole(_ratio([_sides(b[name]) for b in named], [o.shape for o in outputs]))
            if scale:
                yield (
                    f"crop and tile: {name}",
                    lambda g, name=name, s=scale: tiled(cut(g, lookup(g)[name]), *s) if name in lookup(g) else None,
                )


def _proposals(inputs: Grids, outputs: Grids, test: Grids) -> Iterator[tuple[str, Build]]:
    if all(i.shape == o.shape for i, o in zip(inputs, outputs, strict=True)):
        yield "same", mirrored
        yield "same, transposed", transposed
        return
    ratio = _ratio([i.shape for i in inputs], [o.shape for o in outputs])
    if whole := _whole(ratio):
        yield "enlarged", lambda g: enlarged(g, *whole)
        yield "tiled", lambda g: tiled(g, *whole)
    if ratio and (inverse := _whole((1 / ratio[0], 1 / ratio[1]))):
        if inverse[0] * inverse[1] <= MAX_PANELS:
            yield "parts", lambda g: parts(g, *inverse)
        yield "reduced", lambda g: reduced(g, *inverse)
    yield "panels", panels
    yield "panel summary", panel_summary
    yield from _crops(inputs, outputs, test)
    sizes = {o.shape for o in outputs}
    if len(sizes) == 1:
        h, w = next(iter(sizes))
        if h * w <= MAX_CONSTANT_CELLS:
            yield "constant", lambda g: constant(g, h, w)


def hypotheses(inputs: Grids, outputs: Grids, test: Grids) -> list[Canvas]:
    """All canvases that fit every demonstration: inputs, outputs, test: grids int[h, w]."""
    found = []
    for name, build in _proposals(inputs, outputs, test):
        built = [layers for g in (*inputs, *test) if _usable(layers := build(g))]
        if len(built) < len(inputs) + len(test):
            continue
        train, queries = built[: len(inputs)], built[len(inputs) :]
        if any(layers[0].shape != o.shape for layers, o in zip(train, outputs, strict=True)):
            continue
        if len({len(layers) for layers in (*train, *queries)}) == 1:
            found.append(Canvas(name, train, queries))
    return found


def _usable(layers: Layers | None) -> TypeGuard[Layers]:
    return layers is not None and layers[0].size > 0 and max(layers[0].shape) <= MAX_SIDE
