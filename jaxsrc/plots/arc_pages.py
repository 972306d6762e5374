"""Pictures of an ARC evaluation: a page of solved tasks, a page of failed ones, and bars by scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from jaxsrc.data.arc import SIDES
from jaxsrc.plots import style
from jaxsrc.plots.grids import GalleryRow, gallery_page
from jaxsrc.scoring import TaskScore, hits, score, truths_of, wilson

if TYPE_CHECKING:
    from jaxsrc.evaluate import Solved

ROWS = 6


def _row(solved: Solved, arm: str) -> GalleryRow:
    """The first test input that was failed, or the first of all where none was."""
    task, best = solved.task, solved.answers[arm][:2]
    shown = int(hits(best, truths_of(task)).any(axis=0).argmin())
    which = f"; test {shown + 1} of {len(task.test)}" if len(task.test) > 1 else ""
    return GalleryRow(
        title=task.id,
        scale=f"scale {task.scale}; {solved.how}{which}",
        demonstrations=[(p.input, p.output) for p in task.train if p.output is not None],
        test=task.test[shown].input,
        attempts=[*(answer[shown] for answer in best), *[None] * (2 - len(best))],
        truth=task.test[shown].output,
    )


def _spread(found: Sequence[Solved], rows: int) -> list[Solved]:
    """Evenly over the scales, in a fixed order."""
    ordered = sorted(found, key=lambda s: (s.task.scale, s.task.id))
    picks = np.linspace(0, len(ordered) - 1, min(rows, len(ordered))).round().astype(int)
    return [ordered[i] for i in picks]


def pages(found: Sequence[Solved], arm: str, name: str, folder: Path, label: str) -> list[tuple[str, Path]]:
    """(title, PNG) of a page of solved and a page of failed tasks, SVG beside them; name: of the tasks, label: of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for title, wanted in (("solved", True), ("failed", False)):
        part = [s for s in found if score(s.task, s.answers[arm]).pass2 is wanted]
        if part:
            figure = gallery_page([_row(s, arm) for s in _spread(part, ROWS)], title=f"{name}: {title}, {len(part)} tasks")
            path = folder / f"{label}_{title}.png"
            style.save(figure, path)
            out.append((title, path))
    return out


def scale_bars(scores: Mapping[str, Sequence[TaskScore]], path: Path) -> Path:
    """Share of tasks solved in two attempts, by scale and method, with Wilson intervals."""
    with style.look():
        figure = style.blank(9, 4.2)
        figure.set_layout_engine("constrained")
        _bars(figure.add_subplot(), scores)
    style.save(figure, path)
    return path


def _bars(axes: Axes, scores: Mapping[str, Sequence[TaskScore]]) -> None:
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
    words = [f"sides to {SIDES[s]}\n{n} task{'s' * (n != 1)}" for s, n in zip(scales, counts, strict=True)]
    axes.set_xticks(np.arange(len(scales)), words)
    axes.set_ylabel("solved in two attempts")
    axes.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=8)
    style.tidy(axes)
