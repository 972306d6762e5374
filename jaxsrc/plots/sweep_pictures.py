"""Pictures of a sweep: the loss of every run, and the settings as a map."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxsrc.plots import style

if TYPE_CHECKING:
    from jaxsrc.leaderboard import Entry

DASHES = ("-", "--", "-.", ":")


def curves(points: Mapping[str, Sequence[tuple[int, float]]], settings: Mapping[str, str], folder: Path) -> Path:
    """One line a run; runs of one setting share a colour and a dash. A line that stops early was frozen there."""
    path = folder / "sweep_curves.png"
    with style.look():
        figure = style.blank(8.0, 4.4)
        axes = figure.add_subplot()
        names = list(dict.fromkeys(settings.values()))
        for run, line in points.items():
            index = names.index(settings[run])
            first = next(r for r in points if settings[r] == settings[run]) == run
            shade = style.MODEL_STYLES[index % len(style.MODEL_STYLES)].color
            dash = DASHES[index // len(style.MODEL_STYLES) % len(DASHES)]
            label = settings[run] if first else None
            axes.plot([s for s, _ in line], [v for _, v in line], color=shade, linestyle=dash, lw=1.1, label=label)
        axes.set_xlabel("step")
        axes.set_ylabel("training loss, nats a token")
        if len(names) <= 16:
            axes.legend(fontsize=7, ncols=2)
        style.tidy(axes)
        style.save(figure, path)
    return path


def heatmap(entries: Sequence[Entry], folder: Path) -> Path:
    """Bits a byte at each unit and alpha, the best learning rate of each; a frozen setting is a cross."""
    path = folder / "sweep_settings.png"
    alphas = sorted({e.alpha for e in entries}, key=lambda a: (not a[0].isdigit(), a))
    units = sorted({e.unit for e in entries})
    grid = np.full((len(units), len(alphas)), np.nan)
    for e in entries:
        at = units.index(e.unit), alphas.index(e.alpha)
        if math.isfinite(e.bits):
            grid[at] = np.nanmin([grid[at], e.bits]) if np.isfinite(grid[at]) else e.bits
    with style.look():
        figure = style.blank(1.6 + 0.9 * len(alphas), 1.3 + 0.45 * len(units))
        axes = figure.add_subplot()
        axes.imshow(np.ma.masked_invalid(grid), cmap="Blues_r", aspect="auto")
        middle = np.nanmean(grid) if np.isfinite(grid).any() else 0.0
        for (i, j), value in np.ndenumerate(grid):
            ink = style.PAPER if np.isfinite(value) and value < middle else style.INK
            axes.text(j, i, f"{value:.3f}" if np.isfinite(value) else "×", ha="center", va="center", color=ink, fontsize=8)
        axes.set_xticks(range(len(alphas)), alphas)
        axes.set_yticks(range(len(units)), units)
        axes.set_xlabel("alpha")
        axes.set_title("validation bits a byte")
        axes.tick_params(length=0)
        style.save(figure, path)
    return path
