"""Pictures of a gate's benchmark: accuracy of every arm, the frontier of rate and accuracy, a controller's step response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from jaxsrc.plots import style

Interval = tuple[float, float, float]


def accuracies(found: Mapping[str, Mapping[str, Interval]], title: str, path: Path) -> Path:
    """One row an arm, one mark a share of noise (the inner keys), with its interval."""
    arms = list(next(iter(found.values())))
    with style.look():
        figure = style.blank(7.5, 1.4 + 0.3 * len(arms))
        axes = figure.add_subplot()
        for index, (label, values) in enumerate(found.items()):
            look = style.MODEL_STYLES[index % len(style.MODEL_STYLES)]
            y = np.arange(len(arms)) + 0.18 * (index - (len(found) - 1) / 2)
            mean, low, high = (np.array([values[a][k] for a in arms]) * 100 for k in range(3))
            spread = np.nan_to_num([mean - low, high - mean])
            axes.errorbar(mean, y, xerr=spread, fmt=look.marker, color=look.color, ms=4, lw=1, capsize=2, label=label)
        axes.set_yticks(range(len(arms)), arms)
        axes.invert_yaxis()
        axes.set_xlabel("accuracy, %")
        axes.set_title(title)
        axes.legend(fontsize=7, loc="lower left")
        style.tidy(axes, grid="both")
        figure.tight_layout()
        style.save(figure, path)
    return path


def frontier(found: Mapping[str, Sequence[tuple[float, Interval]]], dense: Interval, path: Path) -> Path:
    """Accuracy against rate at equal epochs; a line an arm, dense training as a level."""
    with style.look():
        figure = style.blank(6.5, 4.0)
        axes = figure.add_subplot()
        for index, (name, points) in enumerate(found.items()):
            look = style.MODEL_STYLES[index % len(style.MODEL_STYLES)]
            x = [100 * r for r, _ in points]
            mean, low, high = (np.array([p[k] for _, p in points]) * 100 for k in range(3))
            spread = np.nan_to_num([mean - low, high - mean])
            drawn = {"color": look.color, "marker": look.marker, "ls": look.dash, "ms": 4, "lw": 1.2}
            axes.errorbar(x, mean, spread, capsize=2, label=name, **drawn)
        axes.axhline(100 * dense[0], color=style.QUIET, lw=1, ls=":", label="dense")
        axes.set_xscale("log")
        axes.set_xticks(x := sorted({round(100 * r, 1) for p in found.values() for r, _ in p}), [f"{v:g}" for v in x])
        axes.minorticks_off()
        axes.set_xlabel("rate, % of the samples of an epoch")
        axes.set_ylabel("accuracy at equal epochs, %")
        axes.legend()
        style.tidy(axes, grid="both")
        style.save(figure, path)
    return path


def response(series: Mapping[str, np.ndarray], target: float, shift: int, window: int, path: Path) -> Path:
    """Mean rate of the last `window` batches against batches; a line a controller, a band of 10 % about the target."""
    with style.look():
        figure = style.blank(7.0, 3.6)
        axes = figure.add_subplot()
        axes.axhspan(90 * target, 110 * target, color="#E6EAED", label="target ± 10 %")
        for index, (name, rate) in enumerate(series.items()):
            look = style.MODEL_STYLES[index % len(style.MODEL_STYLES)]
            mean = np.convolve(rate, np.ones(window) / window, "valid")
            axes.plot(np.arange(window, len(rate) + 1), 100 * mean, color=look.color, ls=look.dash, lw=1.2, label=name)
        axes.axvline(shift, color=style.QUIET, lw=0.8, ls=":")
        axes.text(shift, axes.get_ylim()[1], " scores 20 times as large", va="top", fontsize=7.5)
        axes.set_xlabel("batch")
        axes.set_ylabel(f"activation rate over {window} batches, %")
        axes.legend(fontsize=7.5)
        style.tidy(axes)
        style.save(figure, path)
    return path
