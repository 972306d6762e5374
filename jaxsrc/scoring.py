"""Scores of ranked answers at ARC tasks: pass@1, pass@2, oracle, shape and cells, with intervals, and their tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsrc.data.arc import SIDES, Task
from jaxsrc.errors import UserError

Answer = Sequence[np.ndarray]
"""One grid per test input, in their order."""

NORMAL_QUANTILE = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution: two-sided 95 %."""

@dataclass(frozen=True)
class TaskScore:
    """One task's score; grids count whole or not at all, size included.

    hits1, hits2, hits_any: test outputs that are right in the first answer, in one of the first two, in any (the
    oracle); outputs: test outputs there are; shapes: those of the first answer with the right size; cells: mean over
    test outputs of the share of cells that are right in the first answer, 0 where the size is wrong.
    """

    task: Task
    hits1: int
    hits2: int
    hits_any: int
    outputs: int
    shapes: int
    cells: float

    @property
    def pass1(self) -> bool:
        """Every test output right at the first attempt."""
        return self.hits1 == self.outputs

    @property
    def pass2(self) -> bool:
        """Every test output right in one of two attempts."""
        return self.hits2 == self.outputs

    @property
    def oracle(self) -> bool:
        """Every test output right in some answer, however far down the ranking."""
        return self.hits_any == self.outputs


@dataclass(frozen=True)
class Summary:
    """Totals over tasks. pass1, pass2, oracle count whole tasks, outputs1 and outputs2 count test outputs.

    interval: 95 % Wilson interval of pass2 / tasks; task_share2: mean over tasks of the share of a task's test outputs
    right in two attempts (Kaggle's score is outputs2 / outputs); shapes, cells: means over test outputs of the first
    answer's (diagnostics: copying the input is right in about half of the cells and solves nothing).
    """

    tasks: int
    outputs: int
    pass1: int
    pass2: int
    oracle: int
    outputs1: int
    outputs2: int
    task_share2: float
    shapes: float
    cells: float
    interval: tuple[float, float]


def wilson(hits: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion p = hits / total, z the normal quantile (Wilson 1927).

    (p + z^2 / 2n -+ z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n); without trials, everything is possible.
    """
    if total == 0:
        return 0.0, 1.0
    share, square = hits / total, NORMAL_QUANTILE**2 / total
    middle = share + square / 2
    spread = math.sqrt(share * (1 - share) * square + square * square / 4)
    # With no hit the lower end is 0 exactly and with all hits the upper end 1: not what rounding leaves.
    low = (middle - spread) / (1 + square) if hits else 0.0
    return low, (middle + spread) / (1 + square) if hits < total else 1.0


def truths_of(task: Task) -> list[np.ndarray]:
    """The task's test outputs; UserError if one is hidden."""
    truths = [pair.output for pair in task.test if pair.output is not None]
    if len(truths) < len(task.test):
        raise UserError(
            f"task {task.id} of {task.source}: expected known test outputs to score, got "
            f"{len(task.test) - len(truths)} hidden; score a set with solutions"
        )
    return truths


def hits(answers: Sequence[Answer], truths: Sequence[np.ndarray]) -> np.ndarray:
    """bool[answers, outputs]: whether the whole grid is right, size included."""
    for rank, answer in enumerate(answers):
        if len(answer) != len(truths):
            raise ValueError(
                f"expected {len(truths)} grids, one per test input, got {len(answer)} in answer {rank}; "
                "an answer is the grids of all test inputs"
            )
    found = [[np.array_equal(grid, truth) for grid, truth in zip(a, truths, strict=True)] for a in answers]
    return np.array(found, bool).reshape(len(answers), len(truths))


def score(task: Task, answers: Sequence[Answer]) -> TaskScore:
    """Score ranked answers, best first; the first two are the two attempts. No answer at all scores nothing."""
    truths = truths_of(task)
    right = hits(answers, truths)
    first = zip(answers[0], truths, strict=True) if len(answers) else ()
    cells = [float((grid == truth).mean()) for grid, truth in first if np.shape(grid) == truth.shape]
    return TaskScore(
        task=task,
        hits1=int(right[:1].any(0).sum()),
        hits2=int(right[:2].any(0).sum()),
        hits_any=int(right.any(0).sum()),
        outputs=len(truths),
        shapes=len(cells),
        cells=math.fsum(cells) / len(truths),
    )


def summarize(scores: Sequence[TaskScore]) -> Summary:
    """Totals of the scores of any tasks; of none, everything is 0 and the interval is 0 to 1."""
    tasks, outputs = len(scores), sum(s.outputs for s in scores)
    pass2 = sum(s.pass2 for s in scores)
    return Summary(
        tasks=tasks,
        outputs=outputs,
        pass1=sum(s.pass1 for s in scores),
        pass2=pass2,
        oracle=sum(s.oracle for s in scores),
        outputs1=sum(s.hits1 for s in scores),
        outputs2=sum(s.hits2 for s in scores),
        task_share2=math.fsum(s.hits2 / s.outputs for s in scores) / max(tasks, 1),
        shapes=sum(s.shapes for s in scores) / max(outputs, 1),
        cells=math.fsum(s.cells * s.outputs for s in scores) / max(outputs, 1),
        interval=wilson(pass2, tasks),
    )


COLUMNS = (
    *("method", "pass@1", "pass@2", "pass@2 %", "95 % interval", "oracle", "outputs@1", "outputs@2"),
    *("shape", "cells"),
)


def row(name: str, scores: Sequence[TaskScore]) -> list[str]:
    """One line under COLUMNS: whole tasks, then single test outputs, then the diagnostics of the first attempt."""
    total = summarize(scores)
    low, high = total.interval
    return [
        name,
        f"{total.pass1}/{total.tasks}",
        f"{total.pass2}/{total.tasks}",
        _percent(total.pass2, total.tasks),
        f"{100 * low:.1f}-{100 * high:.1f}",
        f"{total.oracle}/{total.tasks}",
        f"{total.outputs1}/{total.outputs}",
        f"{total.outputs2}/{total.outputs}",
        f"{total.shapes:.1%}" if total.outputs else "-",
        f"{total.cells:.1%}" if total.outputs else "-",
    ]


def by_scale(scores: Sequence[TaskScore]) -> list[list[str]]:
    """The line of one method for each scale present, then for same-size and size-changing tasks."""
    return [row(name, part) for name, part in _parts(scores)]


def _parts(scores: Sequence[TaskScore]) -> list[tuple[str, list[TaskScore]]]:
    tests: list[tuple[str, Callable[[Task], bool]]] = [
        (f"scale {scale} (to {side})", lambda task, scale=scale: task.scale == scale)
        for scale, side in enumerate(SIDES)
    ]
    tests += [("same size", lambda task: task.same_size), ("size changes", lambda task: not task.same_size)]
    parts = [(name, [s for s in scores if belongs(s.task)]) for name, belongs in tests]
    return [(name, part) for name, part in parts if part]


def _percent(part: int, total: int) -> str:
    return f"{100 * part / total:.1f}" if total else "-"
