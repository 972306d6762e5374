"""Exact match against seconds for the arms of a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from jaxsrc.plots import style

if TYPE_CHECKING:
    from jaxsrc.bench_kan import Point

LOOKS = (("o", "-"), ("s", "--"), ("^", "-."), ("D", ":"))


def seconds_plot(points: Sequence[Point], total: int, path: Path) -> Path:
    """One line an arm and seed, one marker and dash pattern an arm; seconds on a logarithmic axis."""
    with style.look():
        figure = style.blank(7.5, 4.2)
        figure.set_layout_engine("constrained")
        _lines(figure.add_subplot(), points, total)
    style.save(figure, path)
    return path


def _lines(axes: Axes, points: Sequence[Point], total: int) -> None:
    for index, arm in enumerate(dict.fromkeys(p.arm for p in points)):
        marker, line = LOOKS[index % len(LOOKS)]
        gray = str(0.65 * index / len(LOOKS))
        for seed in dict.fromkeys(p.seed for p in points):
            mine = [p for p in points if p.arm == arm and p.seed == seed]
            label = arm if seed == 0 else None
            axes.plot([p.seconds for p in mine], [p.exact for p in mine], line, marker=marker, color=gray, label=label, ms=5)
    axes.set_xscale("log")
    style.log_ticks(axes.xaxis)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("seconds, all costs but compilation")
    axes.set_ylabel(f"test tasks exactly right, of {total}")
    axes.set_ylim(bottom=0)
    axes.legend()
    style.tidy(axes)
