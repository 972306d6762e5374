"""Scores of attempts at ARC tasks: pass@1, pass@2, oracle, shape and cells, with intervals, by scale; and two baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsrc.data.arc import SIDES, Task

Grid = np.ndarray
Answers = Sequence[Sequence[Grid]]  # ranked answers, each one grid a test input
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(hits: float, total: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson 1927)."""
    if total == 0:
        return 0.0, 1.0
    share = hits / total
    middle = share + Z * Z / (2 * total)
    spread = Z * math.sqrt(share * (1 - share) / total + Z * Z / (4 * total * total))
    scale = 1 + Z * Z / total
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


@dataclass(frozen=True)
class TaskScore:
    """pass1, pass2, oracle: every test input right in the first, in one of two, in any answer; outputs2: share of test
    outputs right in two attempts (the ARC Prize score); shape, cells: of the first attempt, cells 0 where the size is wrong."""

    task: Task
    pass1: bool
    pass2: bool
    oracle: bool
    outputs2: float
    shape: float
    cells: float


def score(task: Task, answers: Answers) -> TaskScore:
    """Score ranked answers against the known test outputs."""
    truths = [p.output for p in task.test if p.output is not None]
    hits = np.array([[np.array_equal(g, t) for g, t in zip(a, truths, strict=True)] for a in answers], bool)
    hits = hits.reshape(len(answers), len(truths))
    first = list(answers[0]) if answers else [None] * len(truths)
    same = [g is not None and g.shape == t.shape for g, t in zip(first, truths, strict=True)]
    cells = [float((g == t).mean()) if ok else 0.0 for g, t, ok in zip(first, truths, same, strict=True)]
    return TaskScore(
        task=task,
        pass1=bool(len(answers)) and bool(hits[0].all()),
        pass2=bool(hits[:2].any(0).all()) if len(answers) else False,
        oracle=bool(hits.any(0).all()) if len(answers) else False,
        outputs2=float(hits[:2].any(0).mean()) if len(answers) else 0.0,
        shape=float(np.mean(same)),
        cells=float(np.mean(cells)),
    )


COLUMNS = ("method", "pass@1", "pass@2", "95 % interval", "oracle", "outputs@2", "shape", "cells")


def row(name: str, scores: Sequence[TaskScore]) -> list[str]:
    """One line of the table of methods: counts of solved tasks, shares of the rest."""
    total = len(scores)
    solved = sum(s.pass2 for s in scores)
    low, high = wilson(solved, total)
    mean = lambda pick: f"{np.mean([pick(s) for s in scores]):.1%}" if scores else "-"
    return [
        name,
        f"{sum(s.pass1 for s in scores)}/{total}",
        f"{solved}/{total}",
        f"{low:.1%} - {high:.1%}",
        f"{sum(s.oracle for s in scores)}/{total}",
        mean(lambda s: s.outputs2),
        mean(lambda s: s.shape),
        mean(lambda s: s.cells),
    ]


def by_scale(scores: Sequence[TaskScore]) -> list[list[str]]:
    """The same line for every scale present, then for same-size and size-changing tasks."""
    rows = []
    for scale, side in enumerate(SIDES):
        part = [s for s in scores if s.task.scale == scale]
        if part:
            rows.append(row(f"scale {scale} (up to {side})", part))
    for name, same in (("same size", True), ("size changes", False)):
        part = [s for s in scores if s.task.same_size is same]
        if part:
            rows.append(row(name, part))
    return rows


def copy_input(task: Task) -> Answers:
    """Baseline: the test input itself."""
    return [[p.input for p in task.test]]


def constant_color(task: Task) -> Answers:
    """Baseline: the demonstrations' most frequent output colour on a grid of the input's size."""
    counts = sum(np.bincount(p.output.ravel(), minlength=10) for p in task.train if p.output is not None)
    color = int(np.argmax(counts))
    return [[np.full_like(p.input, color) for p in task.test]]


BASELINES: dict[str, Callable[[Task], Answers]] = {"copy the input": copy_input, "most frequent colour": constant_color}
