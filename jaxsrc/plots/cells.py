"""Drawing one grid of cells, in dots, so that every edge falls on a whole pixel of the PNG."""

from collections.abc import Iterator
from typing import TypeAlias

import matplotlib.colors
import numpy as np
from jaxtyping import Bool, Integer
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from jaxsrc.plots import style

Grid: TypeAlias = Integer[np.ndarray, "_ _"]


def canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """A figure and one axes over all of it whose data units are dots at style.DPI, with y downwards."""
    figure = style.blank(width / style.DPI, height / style.DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def draw_grid(
    axes: Axes, grid: Grid, x: int | float, y: int | float, cell: int, *, pale: Bool[np.ndarray, "_ _"] | None = None
) -> None:
    """Draws a grid in the official palette, its upper left corner at (x, y), `cell` dots a cell.

    Cells where `pale` is true are blended into the paper. Cells of one colour become one path, so that an SVG page of
    30x30 grids stays small. Raises ValueError for a grid that is not two-dimensional or has values outside 0-9.
    """
    grid = np.asarray(grid)
    if grid.ndim != 2 or 0 in grid.shape or grid.min() < 0 or grid.max() > 9:
        raise ValueError(f"expected a grid of colours 0-9 with two sides >= 1, got shape {grid.shape} of {grid.dtype}")
    height, width = grid.shape
    faded = np.zeros(grid.shape, bool) if pale is None else pale
    for color in range(10):
        for fade in (False, True):
            boxes = [
                _box(x + left * cell, y + row * cell, (right - left) * cell, cell)
                for row, left, right in _runs((grid == color) & (faded == fade))
            ]
            if boxes:
                fill = _blend(style.PALETTE[color]) if fade else style.PALETTE[color]
                runs = Path.make_compound_path(*boxes)
                axes.add_patch(PathPatch(runs, facecolor=fill, linewidth=0, antialiased=False))
    lines = [Path([(x + i * cell, y), (x + i * cell, y + height * cell)]) for i in range(1, width)]
    lines += [Path([(x, y + i * cell), (x + width * cell, y + i * cell)]) for i in range(1, height)]
    if lines:
        thin = 0.5 if cell >= 12 else 0.3
        axes.add_patch(PathPatch(Path.make_compound_path(*lines), fill=False, edgecolor="#6B6B6B", linewidth=thin))
    frame = _box(x, y, width * cell, height * cell)
    axes.add_patch(PathPatch(frame, fill=False, edgecolor=style.INK, linewidth=0.7))


def draw_crosses(axes: Axes, grid: Grid, wrong: Bool[np.ndarray, "_ _"], x: int | float, y: int | float, cell: int) -> None:
    """Crosses the cells where `wrong` is true, in black or white, whichever the cell's colour shows better."""
    strokes: dict[str, list[Path]] = {"#000000": [], "#FFFFFF": []}
    inset = 0.22 * cell
    for row, column in np.argwhere(wrong):
        left, right = x + column * cell + inset, x + (column + 1) * cell - inset
        top, bottom = y + row * cell + inset, y + (row + 1) * cell - inset
        ink = "#000000" if _luminance(style.PALETTE[int(grid[row, column])]) > 0.25 else "#FFFFFF"
        strokes[ink] += [Path([(left, top), (right, bottom)]), Path([(left, bottom), (right, top)])]
    for ink, paths in strokes.items():
        if paths:
            cross = Path.make_compound_path(*paths)
            width = min(1.4, max(0.6, cell / 16))
            axes.add_patch(PathPatch(cross, fill=False, edgecolor=ink, linewidth=width, capstyle="round"))


def _runs(mask: Bool[np.ndarray, "_ _"]) -> Iterator[tuple[int, int, int]]:
    """(row, left, right) of every horizontal run of true cells."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    for (row, left), (_, right) in zip(np.argwhere(edges == 1), np.argwhere(edges == -1), strict=True):
        yield int(row), int(left), int(right)


def _box(x: int | float, y: int | float, width: int | float, height: int | float) -> Path:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
    return Path(corners, closed=True)


def _blend(color: str, paper: float = 0.84) -> tuple[float, float, float]:
    red, green, blue = (paper + (1 - paper) * part for part in matplotlib.colors.to_rgb(color))
    return red, green, blue


def _luminance(color: str) -> float:
    """Relative luminance in 0..1, with 2.2 for the exponent of sRGB: enough to choose black or white."""
    red, green, blue = (part**2.2 for part in matplotlib.colors.to_rgb(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
