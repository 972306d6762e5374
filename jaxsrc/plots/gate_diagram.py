"""How samples flow through a gate: the boxes of a training step with this run's own numbers in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from jaxsrc.gate_config import DenseGate, Gate, ImportanceGate, InfoBatchGate, RandomGate, RS2Gate, SundewGate
from jaxsrc.plots import style

if TYPE_CHECKING:
    from jaxsrc.gate_cost import Cost
    from jaxsrc.gated import GatedExperiment


def _box(axes: Axes, x: float, y: float, w: float, h: float, title: str, text: str, *, strong: bool = False) -> None:
    fill = "#DCE8F2" if strong else "#F3F5F7"
    axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.02,rounding_size=0.08", fc=fill, ec=style.INK, lw=0.9))
    axes.text(x + w / 2, y + h - 0.24, title, ha="center", va="center", fontweight="bold", fontsize=9)
    axes.text(x + w / 2, y + (h - 0.3) / 2, text, ha="center", va="center", fontsize=7.5, linespacing=1.4)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str = "", bend: float = 0.0) -> None:
    look = {"arrowstyle": "-|>", "color": style.INK, "lw": 1.1, "connectionstyle": f"arc3,rad={bend}"}
    axes.annotate("", end, start, arrowprops=look)
    if text:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.16 - bend
        axes.text(*middle, text, ha="center", va="center", fontsize=7.5, color=style.INK)


def where_scores_come_from(gate: Gate) -> str:
    match gate:
        case DenseGate() | RandomGate() | RS2Gate():
            return "none:\nevery candidate\nis as good"
        case SundewGate(policy="memory") | InfoBatchGate() | ImportanceGate(scored="memory"):
            return "memory of each sample's\nlast training step:\nno forward pass"
        case SundewGate(policy="proxy"):
            return "a head after an\nearly layer"
        case SundewGate(policy="every_k"):
            return f"forward pass of all\nevery {gate.every} steps,\nmemory between"
        case _:
            return "forward pass of\nevery candidate"


def draw(experiment: GatedExperiment, cost: Cost, rate: float, path: Path) -> Path:
    """Data, candidates, scores, gate, places, forward and backward, memory; PNG and SVG."""
    sizes, data = experiment.sizes, experiment.data
    with style.look():
        figure = style.blank(11, 3.9)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_xlim(0, 11)
        axes.set_ylim(0, 3.9)
        axes.axis("off")
        axes.text(0.2, 3.65, f"{experiment.name}: one step", fontweight="bold", fontsize=11)
        held = f"target {rate:.3g}\nthreshold solved a step\nowed samples carried on"
        _box(axes, 0.2, 1.6, 1.7, 1.4, "data", f"{data.count:,} samples\non the device")
        _box(axes, 2.4, 1.6, 1.6, 1.4, "candidates", f"{sizes.candidates:,} a step\nin shuffled order")
        _box(axes, 4.5, 1.6, 1.8, 1.4, "significance", where_scores_come_from(experiment.gate))
        plain = isinstance(experiment.gate, DenseGate | RS2Gate)
        _box(axes, 6.8, 1.6, 1.7, 1.4, "gate", "open" if plain else held, strong=not plain)
        times = f"{sizes.capacity:,} places\n{cost.train_flops / 1e6:.3g} MFLOP a sample\n{1e3 * cost.seconds:.3g} ms a step"
        _box(axes, 9.0, 1.6, 1.8, 1.4, "train", times, strong=True)
        for left, right in ((1.9, 2.4), (4.0, 4.5), (6.3, 6.8)):
            _arrow(axes, (left, 2.3), (right, 2.3))
        _arrow(axes, (8.5, 2.3), (9.0, 2.3), f"{100 * rate:.3g} %")
        _box(axes, 4.5, 0.2, 1.8, 0.9, "memory", "loss, entropy, step of each")
        _arrow(axes, (9.9, 1.6), (6.3, 0.65), bend=-0.25)
        axes.text(8.6, 0.3, "what training showed", ha="center", fontsize=7.5)
        _arrow(axes, (5.4, 1.1), (5.4, 1.6))
        skipped = 1 - rate
        if skipped > 0:
            axes.text(7.65, 1.38, f"{100 * skipped:.3g} % skipped", ha="center", fontsize=7.5, color=style.QUIET)
        style.save(figure, path)
    return path
