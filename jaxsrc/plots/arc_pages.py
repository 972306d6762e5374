"""Pictures of an ARC evaluation: a page of solved tasks, a page of failed ones, and bars by scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxsrc.data.arc import SIDES
from jaxsrc.plots import style
from jaxsrc.plots.grids import GalleryRow, gallery_page
from jaxsrc.scoring import TaskScore, score, wilson

if TYPE_CHECKING:
    from jaxsrc.evaluate import Solved

ROWS = 6


def _row(solved: Solved, arm: str) -> GalleryRow:
    task, answers = solved.task, solved.answers[arm]
    attempts = [answer[0] for answer in answers[:2]]
    return GalleryRow(
        title=task.id,
        scale=f"scale {task.scale}; {solved.how}",
        demonstrations=[(p.input, p.output) for p in task.train if p.output is not None],
        test=task.test[0].input,
        attempts=[*attempts, *[None] * (2 - len(attempts))],
        truth=task.test[0].output,
    )


def _spread(found: Sequence[Solved], rows: int) -> list[Solved]:
    """Evenly over the scales, in a fixed order."""
    ordered = sorted(found, key=lambda s: (s.task.scale, s.task.id))
    picks = np.linspace(0, len(ordered) - 1, min(rows, len(ordered))).round().astype(int)
    return [ordered[i] for i in picks]


def pages(found: Sequence[Solved], arm: str, folder: Path, label: str) -> list[tuple[str, Path]]:
    """(title, PNG) of a page of solved and a page of failed tasks, SVG beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for title, wanted in (("solved", True), ("failed", False)):
        part = [s for s in found if score(s.task, s.answers[arm]).pass2 is wanted]
        if part:
            figure = gallery_page([_row(s, arm) for s in _spread(part, ROWS)], title=f"{label}: {title}, {len(part)} tasks")
            path = folder / f"{label}_{title}.png"
            style.save(figure, path)
            out.append((title, path))
    return out


def scale_bars(scores: Mapping[str, Sequence[TaskScore]], path: Path) -> Path:
    """Share of tasks solved in two attempts, by scale and method, with Wilson intervals."""
    figure = style.blank(9, 4.2)
    axes = figure.add_subplot()
    shown = {arm: s for arm, s in scores.items() if any(v.pass2 for v in s)} or dict(list(scores.items())[-1:])
    scales = sorted({s.task.scale for s in next(iter(shown.values()))})
    width = 0.8 / len(shown)
    hatches = ("", "//", "..", "xx", "\\\\", "oo")
    for index, (arm, values) in enumerate(shown.items()):
        share, low, high = [], [], []
        for scale in scales:
            part = [v for v in values if v.task.scale == scale]
            hits = sum(v.pass2 for v in part)
            a, b = wilson(hits, len(part))
            share.append(hits / len(part))
            low.append(share[-1] - a)
            high.append(b - share[-1])
        x = np.arange(len(scales)) + (index - (len(shown) - 1) / 2) * width
        gray = str(0.25 + 0.6 * index / max(len(shown) - 1, 1))
        axes.bar(
            x, share, width * 0.92, yerr=[np.maximum(low, 0), np.maximum(high, 0)], label=arm, hatch=hatches[index % 6],
            color=gray, edgecolor="black", linewidth=0.5, error_kw={"elinewidth": 0.8, "capsize": 2},
        )  # fmt: skip
    counts = [sum(v.task.scale == s for v in next(iter(shown.values()))) for s in scales]
    axes.set_xticks(np.arange(len(scales)), [f"up to {SIDES[s]}\n{n} tasks" for s, n in zip(scales, counts, strict=True)])
    axes.set_ylabel("solved in two attempts")
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.legend(frameon=False, fontsize=8)
    style.tidy(axes)
    style.save(figure, path)
    return path
