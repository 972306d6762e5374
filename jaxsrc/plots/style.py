"""One look for every picture: colours, type, line styles, and how a figure is made and saved."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from jaxsrc.errors import UserError

DPI = 150
"""Dots per inch of every PNG; pictures of grids are laid out in these dots so that cell edges fall on whole pixels."""

PALETTE = ("#000000", "#0074D9", "#FF4136", "#2ECC40", "#FFDC00", "#AAAAAA", "#F012BE", "#FF851B", "#7FDBFF", "#870C25")
"""The official ARC colours, in the order of the digits 0-9."""

INK = "#1F2328"
QUIET = "#667079"
RULE = "#D5DADF"
PAPER = "#FFFFFF"
GOOD = "#1A7F37"
BAD = "#B3261E"


@dataclass(frozen=True, kw_only=True)
class SeriesStyle:
    """How one series is told from the next: colour and lightness, and also marker, dash and hatch for greyscale."""

    color: str
    marker: str
    dash: str
    hatch: str


MODEL_STYLES = (
    SeriesStyle(color="#0B4F8A", marker="o", dash="-", hatch=""),
    SeriesStyle(color="#E8871E", marker="s", dash="--", hatch="////"),
    SeriesStyle(color="#3A9E6B", marker="^", dash="-.", hatch="...."),
    SeriesStyle(color="#B5509C", marker="D", dash=":", hatch="xxxx"),
)
BASELINE_STYLES = (
    SeriesStyle(color="#7D868E", marker="v", dash=":", hatch=""),
    SeriesStyle(color="#A9B1B8", marker="P", dash="-.", hatch="\\\\\\\\"),
    SeriesStyle(color="#CDD3D8", marker="X", dash="--", hatch=""),
    SeriesStyle(color="#E6EAED", marker="*", dash=":", hatch="----"),
)

_SETTINGS = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so a picture is the same on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.7,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "hatch.linewidth": 0.6,
    "svg.hashsalt": "sheaf",  # the same figure gives the same file
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@contextmanager
def look() -> Iterator[None]:
    """Settings of the house while artists are made; matplotlib's own are put back afterwards."""
    with matplotlib.rc_context(_SETTINGS):  # pyright: ignore[reportArgumentType]
        yield


def blank(width: int | float, height: int | float) -> Figure:
    """An empty figure of `width` x `height` inches with an Agg canvas and no pyplot state."""
    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def log_ticks(axis: Axis) -> None:
    """Plain numbers at 1, 2 and 5 of every decade of a logarithmic axis, and no words in between."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_formatter(NullFormatter())


def tidy(axes: Axes, *, grid: str = "y") -> None:
    """Light grid lines along one axis, and no tick marks."""
    axes.grid(visible=True, axis="y" if grid == "y" else "both")
    axes.tick_params(length=0)


def save(figure: Figure, path: Path | str) -> list[Path]:
    """Writes PATH.png (150 dpi) and PATH.svg, each whole or not at all, and returns the two paths.

    A suffix .png or .svg of `path` is dropped first. Raises UserError if the folder cannot be written.
    """
    base = Path(path)
    name = base.stem if base.suffix in (".png", ".svg") else base.name
    written = []
    try:
        base.parent.mkdir(parents=True, exist_ok=True)
        for suffix, metadata in ((".png", {"Software": "sheaf"}), (".svg", {"Date": None, "Creator": "sheaf"})):
            target = base.with_name(name + suffix)
            temporary = target.with_name(f".{target.name}.part")
            with look():
                figure.savefig(temporary, format=suffix[1:], dpi=DPI, metadata=metadata)
            os.replace(temporary, target)
            written.append(target)
    except OSError as error:
        raise UserError(
            f"expected to write pictures to {base.parent}, got {error.strerror}; free space or choose another folder"
        ) from error
    return written
