"""Samples a second against batch size, a line for each device and precision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxsrc.plots import style

if TYPE_CHECKING:
    from jaxsrc.bench_device import Point


def throughput(points: Sequence[Point], path: Path) -> Path:
    """Both axes logarithmic; points that could not be run are left out, and there is one at least that could."""
    with style.look():
        figure = style.blank(6.5, 4.0)
        figure.set_layout_engine("constrained")
        axes = figure.add_subplot()
        kinds = list(dict.fromkeys((p.device, p.precision) for p in points))
        for index, kind in enumerate(kinds):
            mine = [p for p in points if (p.device, p.precision) == kind and p.seconds]
            look = style.MODEL_STYLES[index % len(style.MODEL_STYLES)]
            axes.plot(
                [p.batch for p in mine],
                [p.rate for p in mine],
                color=look.color,
                marker=look.marker,
                linestyle=look.dash,
                label=" ".join(kind),
            )
        run = [p for p in points if p.seconds]
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({p.batch for p in run}), [str(b) for b in sorted({p.batch for p in run})])
        axes.set_yscale("log")
        axes.set_ylim(min(p.rate for p in run) / 2, max(p.rate for p in run) * 2)
        style.log_ticks(axes.yaxis)
        axes.set_xlabel("batch")
        axes.set_ylabel("samples a second")
        axes.legend()
        style.tidy(axes, grid="both")
        style.save(figure, path)
    return path
