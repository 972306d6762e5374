"""The ARC gallery: a task a row, from its demonstrations to what was answered and what was wrong."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import matplotlib.colors
import numpy as np
from jaxtyping import Integer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from matplotlib.text import Text

from jaxsrc.plots import style

Grid = Integer[np.ndarray, "h w"]

# All lengths are dots at style.DPI: cell edges then fall on whole pixels of the PNG.
PANEL = 180  # the widest and highest a grid is drawn: 6 dots a cell at 30x30
SMALLEST = 5  # a 1x1 grid is drawn with the cells of a 5x5 one
MARGIN, ARROW, NEAR, FAR = 44, 30, 24, 50
TITLE, CAPTION, GAP, HEADER = 40, 26, 30, 120


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """One test input of one task, with what was answered.

    title: the task's id; scale: words for its scale; truth None where it is not known; an attempt None where none was made.
    Grids are integers 0-9 of any shape (h, w) with h, w >= 1.
    """

    title: str
    scale: str
    demonstrations: Sequence[tuple[Grid, Grid]]
    test: Grid
    attempts: Sequence[Grid | None]
    truth: Grid | None

    @property
    def outcome(self) -> Literal["solved", "failed", "unknown"]:
        """Solved if any attempt equals the truth in every cell."""
        if self.truth is None:
            return "unknown"
        return "solved" if self.solved_by else "failed"

    @property
    def solved_by(self) -> int:
        """The number of the first attempt that is right, counted from 1; 0 if none is."""
        if self.truth is None:
            return 0
        return next((i for i, a in enumerate(self.attempts, 1) if a is not None and np.array_equal(a, self.truth)), 0)

    @property
    def nearest(self) -> int | None:
        """Index of the attempt to compare with the truth: of the right size and with the fewest wrong cells."""
        made = [(wrong_cells(a, self.truth), i) for i, a in enumerate(self.attempts) if a is not None]
        return min(made)[1] if made else None


def wrong_cells(attempt: Grid, truth: Grid | None) -> float:
    """Cells in which two grids differ; infinity when their shapes do (or the truth is not known)."""
    if truth is None or attempt.shape != truth.shape:
        return math.inf
    return int(np.sum(attempt != truth))


def gallery(rows: Sequence[GalleryRow], *, title: str = "", per_page: int = 6) -> Iterator[Figure]:
    """Pages of at most `per_page` rows each; `title` heads each page, numbered when there are several."""
    pages = max(1, math.ceil(len(rows) / per_page))
    for page in range(pages):
        number = f"{title}  ({page + 1} of {pages})" if pages > 1 else title
        yield gallery_page(rows[page * per_page : (page + 1) * per_page], title=number)


def gallery_page(rows: Sequence[GalleryRow], *, title: str = "") -> Figure:
    """One page: for each row up to three demonstrations, test, two attempts, truth and difference.

    Wrong cells are crossed and right ones pale, so the page reads without colour; a wrong size is said in words.
    Raises ValueError for a grid that is not two-dimensional or has values outside 0-9.
    """
    with style.look():
        shown = max([1, *(min(3, len(row.demonstrations)) for row in rows)])
        columns = _columns(shown)
        heights = [_row_height(row) for row in rows]
        width = columns["difference"] + PANEL + MARGIN
        height = HEADER + sum(heights) + MARGIN // 2
        figure, axes = canvas(width, height)
        _heading(axes, columns, title, width)
        top = HEADER
        for row, row_height in zip(rows, heights, strict=True):
            _draw_row(axes, row, columns, top, row_height)
            top += row_height
    return figure


def canvas(width: int, height: int) -> tuple[Figure, Axes]:
    """A figure and one axes over all of it whose data units are dots, with y downwards."""
    figure = style.blank(width / style.DPI, height / style.DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def cell_side(grid: Grid, others: int) -> int:
    """Dots a cell: the grid fits the panel, and next to one of side `others` it never looks more than 2.5 times as coarse."""
    return PANEL // max(*grid.shape, SMALLEST, math.ceil(others / 2.5))


def draw_grid(axes: Axes, grid: Grid, x: float, y: float, cell: int, *, pale: Grid | None = None) -> None:
    """Draws a grid with its upper left corner at (x, y); cells where `pale` is nonzero are blended into the paper."""
    grid = np.asarray(grid)
    if grid.ndim != 2 or 0 in grid.shape or grid.min() < 0 or grid.max() > 9:
        raise ValueError(f"expected a grid of colours 0-9 with two sides >= 1, got shape {grid.shape} with {grid.dtype}")
    height, width = grid.shape
    faded = np.zeros_like(grid) if pale is None else np.asarray(pale) != 0
    for shade in np.unique(grid + 10 * faded):
        boxes = [
            _box(x + left * cell, y + row * cell, (right - left) * cell, cell)
            for row, left, right in _runs(grid + 10 * faded == shade)
        ]
        color = style.PALETTE[shade % 10] if shade < 10 else _blend(style.PALETTE[shade % 10])
        axes.add_patch(PathPatch(Path.make_compound_path(*boxes), facecolor=color, linewidth=0, antialiased=False))
    lines = [Path([(x + i * cell, y), (x + i * cell, y + height * cell)]) for i in range(1, width)]
    lines += [Path([(x, y + i * cell), (x + width * cell, y + i * cell)]) for i in range(1, height)]
    if lines:
        thin = 0.5 if cell >= 12 else 0.3
        axes.add_patch(PathPatch(Path.make_compound_path(*lines), fill=False, edgecolor="#6B6B6B", linewidth=thin))
    frame = _box(x, y, width * cell, height * cell)
    axes.add_patch(PathPatch(frame, fill=False, edgecolor=style.INK, linewidth=0.7))


def draw_crosses(axes: Axes, grid: Grid, wrong: np.ndarray, x: float, y: float, cell: int) -> None:
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


def _columns(shown: int) -> dict[str, int]:
    """Left edges of the panels of a page whose rows show at most `shown` demonstrations."""
    edges, x = {}, MARGIN
    for index in range(shown):
        edges[f"input {index}"] = x
        edges[f"output {index}"] = x + PANEL + ARROW
        x += 2 * PANEL + ARROW + (NEAR if index + 1 < shown else FAR)
    for name, after in (("test", FAR), ("attempt 1", NEAR), ("attempt 2", FAR), ("truth", NEAR), ("difference", 0)):
        edges[name] = x
        x += PANEL + after
    return edges


def _grids(row: GalleryRow) -> list[Grid]:
    pairs = [grid for pair in row.demonstrations[:3] for grid in pair]
    return [*pairs, row.test, *(a for a in row.attempts[:2] if a is not None), *([] if row.truth is None else [row.truth])]


def _row_height(row: GalleryRow) -> int:
    return TITLE + _body_height(row) + CAPTION + GAP


def _body_height(row: GalleryRow) -> int:
    """Height of the tallest grid of the row as drawn, and never less than three lines of words need."""
    others = _longest(row)
    return max(80, *(grid.shape[0] * cell_side(grid, others) for grid in _grids(row)))


def _longest(row: GalleryRow) -> int:
    return max(max(grid.shape) for grid in _grids(row))


def _heading(axes: Axes, columns: dict[str, int], title: str, width: int) -> None:
    axes.text(MARGIN, 40, title, fontsize=12, fontweight="bold", va="center")
    key = "crossed: wrong cell, shown in the colour answered; pale: right cell"
    axes.text(width - MARGIN, 40, key, fontsize=7, color=style.QUIET, ha="right", va="center")
    for name, x in columns.items():
        words = {"input": "demonstration {}", "output": ""}.get(name.split()[0], name)
        if words:
            number = int(name.split()[1]) + 1 if name.startswith("input") else 0
            axes.text(x, 88, words.format(number), fontsize=8, color=style.QUIET, va="center")
    axes.plot([MARGIN, width - MARGIN], [104, 104], color=style.RULE, linewidth=0.8)


def _draw_row(axes: Axes, row: GalleryRow, columns: dict[str, int], top: int, row_height: int) -> None:
    _row_title(axes, row, top, columns["difference"] + PANEL)
    body = top + TITLE
    tall = row_height - TITLE - CAPTION - GAP
    others = _longest(row)

    def panel(name: str, grid: Grid, words: str = "") -> None:
        caption = f"{grid.shape[0]}×{grid.shape[1]}" + (f" · {words}" if words else "")
        draw_grid(axes, grid, columns[name], body, cell_side(grid, others))
        axes.text(columns[name], body + grid.shape[0] * cell_side(grid, others) + 15, caption, **_SMALL)

    def words_only(name: str, words: str) -> None:
        axes.text(columns[name], body + 4, words, fontsize=7.5, color=style.QUIET, va="top", linespacing=1.4)

    for index, (given, wanted) in enumerate(row.demonstrations[:3]):
        panel(f"input {index}", given)
        panel(f"output {index}", wanted)
        middle = columns[f"output {index}"] - ARROW / 2
        axes.text(middle, body + min(tall, 80) / 2, "→", fontsize=9, color=style.QUIET, ha="center", va="center")
    panel("test", row.test)
    for number in (1, 2):
        attempt = row.attempts[number - 1] if number <= len(row.attempts) else None
        if attempt is None:
            words_only(f"attempt {number}", "no attempt")
        else:
            panel(f"attempt {number}", attempt, _verdict(attempt, row.truth))
    if row.truth is None:
        words_only("truth", "not known")
        return
    panel("truth", row.truth)
    if row.nearest is None:
        words_only("difference", "nothing to\ncompare")
        return
    attempt = row.attempts[row.nearest]
    assert attempt is not None
    if attempt.shape != row.truth.shape:
        (got_h, got_w), (h, w) = attempt.shape, row.truth.shape
        words_only("difference", f"wrong size:\n{got_h}×{got_w} answered,\n{h}×{w} is right")
        return
    wrong = attempt != row.truth
    cell = cell_side(attempt, others)
    x = columns["difference"]
    draw_grid(axes, attempt, x, body, cell, pale=(~wrong).astype(np.uint8))
    draw_crosses(axes, attempt, wrong, x, body, cell)
    count = int(wrong.sum())
    caption = f"{count} of {wrong.size} wrong" if count else "none wrong"
    axes.text(x, body + attempt.shape[0] * cell + 15, f"attempt {row.nearest + 1}: {caption}", **_SMALL)


_SMALL = {"fontsize": 6.5, "color": style.QUIET, "va": "center"}


def _verdict(attempt: Grid, truth: Grid | None) -> str:
    if truth is None:
        return ""
    wrong = wrong_cells(attempt, truth)
    return "right" if wrong == 0 else "wrong size" if math.isinf(wrong) else f"{wrong} wrong"


def _row_title(axes: Axes, row: GalleryRow, top: int, right: int) -> None:
    """Mark, task id, then scale and outcome in quieter type; each placed after the measured end of the one before."""
    y = top + 16
    mark, color, words = {
        "solved": ("✓", style.GOOD, f"solved by attempt {row.solved_by}"),
        "failed": ("✗", style.BAD, "failed"),
        "unknown": ("?", style.QUIET, "not scored"),
    }[row.outcome]
    axes.text(MARGIN, y, mark, fontsize=10, fontweight="bold", color=color, va="center")
    extra = len(row.demonstrations) - 3
    more = f"  ·  3 of {len(row.demonstrations)} demonstrations shown" if extra > 0 else ""
    rest = f"{row.scale}  ·  {words}{more}" if row.scale else f"{words}{more}"
    name = axes.text(MARGIN + 26, y, row.title, fontsize=9, fontweight="bold", va="center")
    detail = axes.text(MARGIN, y, rest, fontsize=8, color=style.QUIET, va="center")
    _shorten(name, right - (MARGIN + 26) - 24 - _width(detail))
    detail.set_x(MARGIN + 26 + _width(name) + 24)


def _width(text: Text) -> float:
    figure = text.get_figure()
    assert figure is not None
    canvas_ = figure.canvas
    assert isinstance(canvas_, FigureCanvasAgg)
    return text.get_window_extent(canvas_.get_renderer()).width


def _shorten(text: Text, room: float) -> None:
    """Cuts the middle out of a text until it fits `room` dots."""
    whole = text.get_text()
    keep = len(whole)
    while keep > 8 and _width(text) > room:
        keep -= max(1, keep // 8)
        text.set_text(f"{whole[: keep - keep // 3]}…{whole[len(whole) - keep // 3 :]}")


def _runs(mask: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(row, left, right) of every horizontal run of true cells."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    for (row, left), (_, right) in zip(np.argwhere(edges == 1), np.argwhere(edges == -1), strict=True):
        yield int(row), int(left), int(right)


def _box(x: float, y: float, width: float, height: float) -> Path:
    corners = [(x, y), (x + width, y), (x + width, y + height), (x, y + height), (x, y)]
    return Path(corners, closed=True)


def _blend(color: str, paper: float = 0.78) -> tuple[float, float, float]:
    red, green, blue = matplotlib.colors.to_rgb(color)
    return tuple(paper + (1 - paper) * c for c in (red, green, blue))  # type: ignore[return-value]


def _luminance(color: str) -> float:
    """Relative luminance in 0..1 (WCAG 2, without its gamma: close enough to choose black or white)."""
    red, green, blue = matplotlib.colors.to_rgb(color)
    return (0.2126 * red**2.2) + (0.7152 * green**2.2) + (0.0722 * blue**2.2)
