"""The ARC gallery: a task a row, from its demonstrations to what was answered and what was wrong."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from jaxsrc.plots import style
from jaxsrc.plots.cells import Grid, canvas, draw_crosses, draw_grid

# All lengths are dots at style.DPI: cell edges then fall on whole pixels of the PNG.
PANEL = 180  # the widest and highest that a grid is drawn: 6 dots a cell at 30x30
SMALLEST = 5  # a 1x1 grid is drawn with the cells of a 5x5 one
DEMONSTRATIONS = 3
MARGIN, ARROW, NEAR, FAR = 44, 34, 30, 56
TITLE, CAPTION, GAP, HEADER = 40, 26, 30, 120
TIMES = "\N{MULTIPLICATION SIGN}"
SMALL = 6.5  # points of a caption: 22 letters are one panel wide


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """One test input of one task, with what was answered.

    title: the task's id; scale: its scale in words; truth: None where it is not known; attempts: None where none was
    made. Grids are integers 0-9 of shape (h, w), h and w at least 1.
    """

    title: str
    scale: str
    demonstrations: Sequence[tuple[Grid, Grid]]
    test: Grid
    attempts: Sequence[Grid | None]
    truth: Grid | None

    @property
    def solved_by(self) -> int:
        """The number of the first attempt that equals the truth in every cell, counted from 1; 0 if none does."""
        return next((i for i, a in enumerate(self.attempts, 1) if a is not None and errors(a, self.truth) == 0), 0)

    @property
    def outcome(self) -> Literal["solved", "failed", "unknown"]:
        """Solved if any attempt is right, unknown without a truth."""
        if self.truth is None:
            return "unknown"
        return "solved" if self.solved_by else "failed"

    @property
    def nearest(self) -> tuple[int, Grid] | None:
        """Number and grid of the attempt to compare with the truth: the fewest wrong cells, a wrong size last."""
        made = [(errors(a, self.truth), i, a) for i, a in enumerate(self.attempts, 1) if a is not None]
        return min(made, key=lambda item: item[:2])[1:] if made else None


def errors(attempt: Grid, truth: Grid | None) -> int | float:
    """Cells in which two grids differ; infinity when their shapes do, or the truth is not known."""
    if truth is None or attempt.shape != truth.shape:
        return math.inf
    return int(np.sum(attempt != truth))


def gallery_page(rows: Sequence[GalleryRow], *, title: str = "") -> Figure:
    """One page: for each row up to three demonstrations, test, two attempts, truth and difference.

    Wrong cells are crossed and right ones pale, so the page reads without colour; a wrong size is said in words.
    Raises ValueError for a grid that is not two-dimensional or has values outside 0-9.
    """
    with style.look():
        columns = _columns(max([1, *(min(DEMONSTRATIONS, len(row.demonstrations)) for row in rows)]))
        width = columns["difference"] + PANEL + MARGIN
        heights = [_body_height(row) + TITLE + CAPTION + GAP for row in rows]
        figure, axes = canvas(width, HEADER + sum(heights) + MARGIN // 2)
        _heading(axes, columns, title, width)
        top = HEADER
        for row, height in zip(rows, heights, strict=True):
            _row_title(axes, row, top, width - MARGIN)
            _Row(axes, row, columns, top + TITLE).draw()
            top += height
    return figure


@dataclass(frozen=True)
class _Row:
    """Draws the panels of one row; `body` is the upper edge of its grids."""

    axes: Axes
    row: GalleryRow
    columns: dict[str, int]
    body: int

    def draw(self) -> None:
        for index, (given, wanted) in enumerate(self.row.demonstrations[:DEMONSTRATIONS]):
            self._pair(given, wanted, self.columns[f"demonstration {index + 1}"])
        self._panel(self.row.test, self.columns["test"])
        for number in (1, 2):
            attempt = self.row.attempts[number - 1] if number <= len(self.row.attempts) else None
            if attempt is None:
                self._words("no attempt", self.columns[f"attempt {number}"])
            else:
                self._panel(attempt, self.columns[f"attempt {number}"], self._verdict(attempt))
        if self.row.truth is None:
            self._words("not known", self.columns["truth"])
        else:
            self._panel(self.row.truth, self.columns["truth"])
            self._difference(self.row.truth, self.columns["difference"])

    def _pair(self, given: Grid, wanted: Grid, x: int) -> None:
        self._panel(given, x)
        cell = _cell(given, self.row)
        after = x + given.shape[1] * cell
        # The output follows its input closely, but never so closely that the captions below them touch.
        after = max(after, x + 2 * ARROW)
        shorter = min(given.shape[0] * cell, wanted.shape[0] * _cell(wanted, self.row))
        style_of_arrow = {"fontsize": 9, "color": style.QUIET, "ha": "center", "va": "center"}
        self.axes.text(after + ARROW / 2, self.body + shorter / 2, "\N{RIGHTWARDS ARROW}", **style_of_arrow)
        self._panel(wanted, after + ARROW)

    def _panel(self, grid: Grid, x: int, words: str = "") -> None:
        draw_grid(self.axes, grid, x, self.body, _cell(grid, self.row))
        self._caption(f"{_size(grid)} · {words}" if words else _size(grid), grid, x)

    def _caption(self, words: str, grid: Grid, x: int) -> None:
        y = self.body + grid.shape[0] * _cell(grid, self.row) + 15
        self.axes.text(x, y, words, fontsize=SMALL, color=style.QUIET, va="center")

    def _words(self, words: str, x: int) -> None:
        self.axes.text(x, self.body + 2, words, fontsize=7.5, color=style.QUIET, va="top", linespacing=1.4)

    def _difference(self, truth: Grid, x: int) -> None:
        if self.row.nearest is None:
            return self._words("nothing to\ncompare", x)
        number, attempt = self.row.nearest
        if attempt.shape != truth.shape:
            return self._words(f"wrong size:\n{_size(attempt)} answered,\n{_size(truth)} is right", x)
        wrong, cell = attempt != truth, _cell(attempt, self.row)
        draw_grid(self.axes, attempt, x, self.body, cell, pale=~wrong)
        draw_crosses(self.axes, attempt, wrong, x, self.body, cell)
        return self._caption(f"attempt {number}: {int(wrong.sum()) or 'none'} wrong", attempt, x)

    def _verdict(self, attempt: Grid) -> str:
        if self.row.truth is None:
            return ""
        wrong = errors(attempt, self.row.truth)
        return "right" if wrong == 0 else "wrong size" if math.isinf(wrong) else f"{wrong} wrong"


def _size(grid: Grid) -> str:
    return f"{grid.shape[0]}{TIMES}{grid.shape[1]}"


def _cell(grid: Grid, row: GalleryRow) -> int:
    """Dots a cell: the grid fits the panel, and no grid of a row looks more than 2.5 times as coarse as another."""
    return PANEL // max(*grid.shape, SMALLEST, math.ceil(max(max(g.shape) for g in _grids(row)) / 2.5))


def _grids(row: GalleryRow) -> list[Grid]:
    pairs = [grid for pair in row.demonstrations[:DEMONSTRATIONS] for grid in pair]
    return [*pairs, *(grid for grid in (row.test, *row.attempts[:2], row.truth) if grid is not None)]


def _body_height(row: GalleryRow) -> int:
    """Height of the tallest grid of the row as drawn, and never less than three lines of words need."""
    return max(80, *(grid.shape[0] * _cell(grid, row) for grid in _grids(row)))


def _columns(shown: int) -> dict[str, int]:
    """Left edges of the columns of a page whose rows show at most `shown` demonstrations."""
    edges, x = {}, MARGIN
    widths = [(f"demonstration {i + 1}", 2 * PANEL + ARROW + FAR) for i in range(shown)]
    widths += [("test", PANEL + FAR), ("attempt 1", PANEL + NEAR), ("attempt 2", PANEL + FAR), ("truth", PANEL + NEAR)]
    for name, width in [*widths, ("difference", PANEL)]:
        edges[name] = x
        x += width
    return edges


def _heading(axes: Axes, columns: dict[str, int], title: str, width: int) -> None:
    key = "crossed: wrong cell, in the colour answered; pale: right cell"
    legend = axes.text(width - MARGIN, 40, key, fontsize=7, color=style.QUIET, ha="right", va="center")
    heading = axes.text(MARGIN, 40, title, fontsize=12, fontweight="bold", va="center")
    _shorten(heading, width - 2 * MARGIN - FAR - _width(legend))
    for name, x in columns.items():
        axes.text(x, 88, name, fontsize=8, color=style.QUIET, va="center")
    axes.plot([MARGIN, width - MARGIN], [104, 104], color=style.RULE, linewidth=0.8)


def _row_title(axes: Axes, row: GalleryRow, top: int, right: int) -> None:
    """Mark, task id, then scale and outcome in quieter type; each placed after the measured end of the one before."""
    y = top + 16
    mark, color, words = {
        "solved": ("\N{CHECK MARK}", style.GOOD, f"solved by attempt {row.solved_by}"),
        "failed": ("\N{BALLOT X}", style.BAD, "failed"),
        "unknown": ("?", style.QUIET, "not scored"),
    }[row.outcome]
    axes.text(MARGIN, y, mark, fontsize=10, fontweight="bold", color=color, va="center")
    hidden = len(row.demonstrations) > DEMONSTRATIONS
    more = f"{DEMONSTRATIONS} of {len(row.demonstrations)} demonstrations shown" if hidden else ""
    rest = "  ·  ".join(part for part in (row.scale, words, more) if part)
    name = axes.text(MARGIN + 26, y, row.title, fontsize=9, fontweight="bold", va="center")
    detail = axes.text(MARGIN, y, rest, fontsize=8, color=style.QUIET, va="center")
    _shorten(name, right - (MARGIN + 26) - 24 - _width(detail))
    detail.set_x(MARGIN + 26 + _width(name) + 24)


def _width(text: Text) -> float:
    """Width of a text in dots."""
    figure = text.get_figure()
    assert figure is not None and isinstance(figure.canvas, FigureCanvasAgg)
    return text.get_window_extent(figure.canvas.get_renderer()).width


def _shorten(text: Text, room: float) -> None:
    """Cuts the middle out of a text until it fits `room` dots."""
    whole = text.get_text()
    keep = len(whole)
    while keep > 8 and _width(text) > room:
        keep -= max(1, keep // 8)
        text.set_text(f"{whole[: keep - keep // 3]}…{whole[len(whole) - keep // 3 :]}")
