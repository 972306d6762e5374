"""Exact match of nested arithmetic: curves over depth with intervals, and the grid of depth and length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from jaxsrc.plots import style
from jaxsrc.scoring import wilson


def _finished(axes: Axes, below: str, beside: str, path: Path) -> Path:
    """A share in percent over something, with its legend outside, saved."""
    axes.set_xlabel(below)
    axes.set_ylabel(beside)
    axes.set_ylim(0, 103)
    axes.figure.legend(loc="outside lower left", fontsize=8)  # type: ignore[union-attr]
    style.tidy(axes)
    return style.save(axes.figure, path)[0]  # type: ignore[arg-type]


@style.look()
def depth_curve(series: Mapping[str, Mapping[int, tuple[int, int]]], path: Path) -> Path:
    """Share exactly right by depth, one line a run or track, Wilson intervals as bars; depth -> (right, items)."""
    figure = style.blank(6.5, 3.8 + 0.2 * len(series))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for (name, counts), look in zip(series.items(), [*style.MODEL_STYLES, *style.BASELINE_STYLES], strict=False):
        depths = sorted(counts)
        shares = np.array([counts[d][0] / counts[d][1] for d in depths])
        bounds = np.array([wilson(*counts[d]) for d in depths])
        error = 100 * np.abs(bounds.T - shares)
        axes.errorbar(
            depths, 100 * shares, error, label=name, color=look.color, marker=look.marker, ls=look.dash, capsize=3, ms=5
        )
    axes.axvspan(-0.4, 2.4, color=style.RULE, alpha=0.4, lw=0)
    axes.text(1.0, 3, "trained depths", ha="center", color=style.QUIET, fontsize=8)
    return _finished(axes, "depth of the parentheses", "greedy exact match, %", path)


@style.look()
def learning_curve(series: Mapping[str, Sequence[Sequence[tuple[int, int | float]]]], path: Path) -> Path:
    """Share exactly right by training rows seen, one look a track, one line a run; (rows, share)."""
    figure = style.blank(6.5, 3.8 + 0.2 * len(series))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for (name, runs), look in zip(series.items(), [*style.MODEL_STYLES, *style.BASELINE_STYLES], strict=False):
        for i, run in enumerate(runs):
            rows, shares = zip(*run, strict=True)
            label = "_" * (i > 0) + name  # one line of the legend a track
            axes.plot(rows, [100 * s for s in shares], label=label, color=look.color, marker=look.marker, ls=look.dash, ms=4)
    below = "training rows seen, drills too (rewriting: single readings)"
    return _finished(axes, below, "greedy exact match, trained depths, %", path)


@style.look()
def length_grid(grid: Mapping[tuple[int, int], tuple[int, int]], path: Path) -> Path:
    """Share exactly right by depth (rows) and count of numbers (columns), with the number of items in every cell."""
    depths, lengths = sorted({d for d, _ in grid}), sorted({n for _, n in grid})
    shares = np.full((len(depths), len(lengths)), np.nan)
    figure = style.blank(1.2 + 0.62 * len(lengths), 1.2 + 0.42 * len(depths))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    for (d, n), (hits, total) in grid.items():
        i, j = depths.index(d), lengths.index(n)
        shares[i, j] = hits / total
        dark = shares[i, j] < 0.5
        axes.text(j, i, f"{100 * hits / total:.0f}\n({total})", ha="center", va="center", fontsize=6, color="w" if dark else "k")
    axes.imshow(shares, vmin=0, vmax=1, cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(lengths)), [str(n) for n in lengths])
    axes.set_yticks(range(len(depths)), [str(d) for d in depths])
    axes.set_xlabel("numbers in the expression")
    axes.set_ylabel("depth")
    axes.set_title("greedy exact match, % (items)")
    axes.tick_params(length=0)
    return style.save(figure, path)[0]
