"""Pictures of what was found inside a transformer: effects of ablations, attention, patching, lens, probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxsrc.plots import style


@style.look()
def grid(
    table: Float[np.ndarray, "r c"],
    rows: Sequence[str],
    columns: Sequence[str],
    path: Path,
    *,
    title: str,
    unit: str,
    signed: bool,
) -> Path:
    """A heat map with its numbers in the cells; signed: zero in the middle of the colours."""
    wide = len(columns)
    figure = style.blank(min(2.4 + 0.48 * wide, 16), 1.4 + 0.34 * len(rows))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    most = float(np.nanmax(np.abs(table))) or 1.0
    shown = axes.imshow(table, cmap="RdBu_r" if signed else "viridis", vmin=-most if signed else None, vmax=most, aspect="auto")
    if table.size <= 200:
        for i, j in np.ndindex(*table.shape):
            part = table[i, j] / most
            dark = abs(part) > 0.6 if signed else part < 0.5
            axes.text(j, i, f"{table[i, j]:.2g}", ha="center", va="center", fontsize=6, color="w" if dark else style.INK)
    axes.set_xticks(range(wide), list(columns), rotation=0 if max(map(len, columns)) < 4 else 60, fontsize=7)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=7)
    axes.tick_params(length=0)
    axes.set_title(title)
    figure.colorbar(shown, ax=axes, label=unit, fraction=0.04)
    return style.save(figure, path)[0]


@style.look()
def attention(patterns: dict[str, Float[np.ndarray, "h n n"]], tokens: Sequence[str], path: Path) -> Path:
    """Every head of every block on one text: rows look at columns."""
    heads = len(next(iter(patterns.values())))
    figure = style.blank(2.1 * heads, 2.2 * len(patterns))
    figure.set_layout_engine("constrained")
    for i, (name, maps) in enumerate(patterns.items()):
        for h in range(heads):
            axes = figure.add_subplot(len(patterns), heads, i * heads + h + 1)
            axes.imshow(maps[h], cmap="Greys", vmin=0, vmax=1)
            axes.set_title(f"{name}.head{h}", fontsize=7)
            axes.set_xticks(range(len(tokens)), [t if len(t) == 1 else "·" for t in tokens], fontsize=5)
            axes.set_yticks(range(len(tokens)), [t if len(t) == 1 else "·" for t in tokens], fontsize=5)
            axes.tick_params(length=0)
    return style.save(figure, path)[0]


@style.look()
def lines(series: Mapping[str, Sequence[float]], places: Sequence[str], path: Path, *, title: str, unit: str) -> Path:
    """A few series over named places, such as layers."""
    figure = style.blank(1.5 + 0.7 * len(places), 3.4 + 0.1 * len(series))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    looks = [*style.MODEL_STYLES, *style.BASELINE_STYLES]
    for (name, values), look in zip(series.items(), looks, strict=False):
        axes.plot(range(len(places)), list(values), label=name, color=look.color, marker=look.marker, ls=look.dash, ms=4)
    axes.set_xticks(range(len(places)), list(places), rotation=60, fontsize=7)
    axes.set_ylabel(unit)
    axes.set_title(title)
    figure.legend(loc="outside lower left", ncols=2, fontsize=7)
    style.tidy(axes)
    return style.save(figure, path)[0]
