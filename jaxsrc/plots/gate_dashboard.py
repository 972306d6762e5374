"""Six panels of a run with a gate, all from the run's own figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from jaxsrc.plots import style

if TYPE_CHECKING:
    from jaxsrc.gate_cost import Cost


BARS = 40


@dataclass(frozen=True)
class View:
    """per_epoch: steps of an epoch; passed: samples that a step stands for; target: rate; bookkeeping: rate -> share saved
    by the published script's accounts."""

    title: str
    per_epoch: float
    passed: float
    target: float
    cost: Cost
    bookkeeping: Callable[[float], float]


def series(rows: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of the records that hold a metric."""
    found = [(r["step"], r[name]) for r in rows if name in r]
    return tuple(np.array(x, float) for x in zip(*found, strict=True)) if found else (np.zeros(0), np.zeros(0))  # type: ignore


def by_epoch(steps: np.ndarray, values: np.ndarray, per_epoch: int | float) -> tuple[np.ndarray, np.ndarray, float]:
    """(epochs, mean of the windows that end in each, width of a bar); several epochs in one where windows are longer, or
    where there are more than `BARS`."""
    if not len(steps):
        return steps, values, 1.0
    gap = float(np.diff(steps, prepend=0).max()) / per_epoch
    span = float(max(1, np.ceil(gap), np.ceil(steps[-1] / per_epoch / BARS)))
    number = np.ceil(steps / per_epoch / span - 1e-9)
    numbers = np.unique(number)
    means = np.array([values[number == e].mean() for e in numbers])
    return (numbers - 0.5) * span + 0.5, means, 0.85 * span


def _empty(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=style.QUIET, transform=axes.transAxes)


def draw(rows: Sequence[dict[str, Any]], view: View, path: Path) -> Path:
    """Training loss; test accuracy; rate and target; operations saved an epoch; seconds an epoch; trained and skipped."""
    with style.look():
        figure = style.blank(11, 6.4)
        figure.suptitle(view.title, x=0.01, ha="left", fontweight="bold")
        (loss, accuracy, rate), (energy, speed, counts) = figure.subplots(2, 3)
        mine, other = style.MODEL_STYLES[0], style.MODEL_STYLES[1]
        steps, values = series(rows, "loss")
        loss.plot(steps / view.per_epoch, values, color=mine.color, lw=1.2)
        loss.set(title="training loss", xlabel="epoch", ylabel="nats")
        steps, values = series(rows, "val/accuracy")
        if len(steps):
            accuracy.plot(steps / view.per_epoch, 100 * values, color=mine.color, marker="o", ms=3, lw=1.2)
        else:
            _empty(accuracy, "not measured during this run")
        accuracy.set(title="accuracy on the test part", xlabel="epoch", ylabel="%")
        steps, values = series(rows, "rate")
        rate.plot(steps / view.per_epoch, 100 * values, color=mine.color, lw=1.2, label="measured")
        rate.axhline(100 * view.target, color=other.color, ls=other.dash, lw=1.2, label=f"target {view.target:.3g}")
        rate.set(title="activation rate", xlabel="epoch", ylabel="% of the samples")
        rate.set_ylim(0, max(100 * view.target * 1.6, 100 * float(values.max()) * 1.1 if len(values) else 1))
        rate.legend()
        epochs, rates, width = by_epoch(steps, values, view.per_epoch)
        _, scored, _ = by_epoch(*series(rows, "scored"), view.per_epoch)
        if len(epochs):
            saved = [100 * view.cost.saved(1.0, r, s) for r, s in zip(rates, scored, strict=True)]
            booked = [100 * view.bookkeeping(r) for r in rates]
            energy.bar(epochs, saved, width, color=mine.color, label="operations saved, counted")
            look = {"color": other.color, "ls": other.dash, "marker": other.marker, "ms": 3, "lw": 1}
            energy.plot(epochs, booked, label="published bookkeeping", **look)
            energy.set_ylim(min(0, min(saved)), 130)
            total = view.passed * view.per_epoch
            counts.bar(epochs, rates * total, width, color=mine.color, label="trained on")
            counts.bar(epochs, (1 - rates) * total, width, bottom=rates * total, color="#D9DEE3", hatch="////", label="skipped")
            counts.set_ylim(0, 1.3 * total)
        energy.axhline(0, color=style.QUIET, lw=0.7)
        energy.set(title="energy: operations saved", xlabel="epoch", ylabel="%")
        if len(epochs):
            energy.legend(fontsize=7)
            counts.legend(fontsize=7)
        counts.set(title="samples of an epoch", xlabel="epoch", ylabel="samples")
        names, seconds = ["dense", "this gate"], [view.cost.dense_epoch, view.cost.epoch]
        bars = speed.bar(names, seconds, color=["#A9B1B8", mine.color], hatch=["\\\\\\\\", ""])
        speed.bar_label(bars, [f"{s:.3g} s" for s in seconds], fontsize=8)
        speed.set(title=f"an epoch, {view.cost.speedup:.2f} times as fast", ylabel="seconds, measured in this run")
        for axes in (loss, accuracy, rate, energy, speed, counts):
            style.tidy(axes)
        figure.tight_layout()
        style.save(figure, path)
    return path
