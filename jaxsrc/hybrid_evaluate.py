"""What a grid decoder answers, voted over the views of a task, beside answers that take no thought."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxsrc import scoring
from jaxsrc.baselines import BASELINES
from jaxsrc.data.arc import Task
from jaxsrc.data.augment import unview_grid
from jaxsrc.data.grid_tokens import decode, encode
from jaxsrc.plots import hybrid_pages
from jaxsrc.protocol import PyTree
from jaxsrc.report import Report

if TYPE_CHECKING:
    from jaxsrc.hybrid_experiment import HybridExperiment
    from jaxsrc.runs import OpenRun

COLUMNS = (*scoring.COLUMNS, "canvas")
MAIN, SINGLE = "decoder, voted", "decoder, one view"
Ranked = dict[str, list[list[list[np.ndarray]]]]  # by method and task, the best first, each one grid a test input


class Candidate(NamedTuple):
    """A grid that some views answered: how many, and the mean probability of being right that they gave it."""

    grid: np.ndarray
    votes: int
    belief: float


def vote(grids: Sequence[np.ndarray], halts: Sequence[float]) -> list[Candidate]:
    """Candidates by (votes, mean sigmoid of the halting logit), largest first; made anew for every evaluation."""
    found: dict[tuple, list[float]] = {}
    kept: dict[tuple, np.ndarray] = {}
    for grid, halt in zip(grids, halts, strict=True):
        key = (grid.shape, grid.tobytes())
        kept.setdefault(key, grid)
        found.setdefault(key, []).append(1 / (1 + math.exp(-max(min(float(halt), 50.0), -50.0))))
    ranked = [Candidate(kept[k], len(p), sum(p) / len(p)) for k, p in found.items()]
    return sorted(ranked, key=lambda c: (-c.votes, -c.belief))


def padding(task: Task) -> list[list[np.ndarray]]:
    """Nothing at all, which is most of a canvas: the answer that a loss over padding rewards."""
    return [[np.zeros((0, 0), np.uint8) for _ in task.test]] * 2


PLAIN: dict[str, Callable[[Task], list[list[np.ndarray]]]] = {**BASELINES, "all padding": padding}


def canvas_share(task: Task, answer: Sequence[np.ndarray], side: int) -> float:
    """Share of canvas positions that are right, padding included: shown to say how little it says."""
    blank = lambda g: encode(g, side) if g.size and max(g.shape) <= side else np.zeros(side * side, np.int8)
    return float(np.mean([(blank(g) == encode(t, side)).mean() for g, t in zip(answer, scoring.truths_of(task), strict=True)]))


def answers(experiment: HybridExperiment, params: PyTree, tasks: range) -> Ranked:
    """Of these tasks under MAIN and SINGLE."""
    problems, side = experiment.problems, experiment.config.model.side
    index = problems.tests(tasks)
    said = experiment.predict(params, index)
    by_question: dict[tuple[int, int], tuple[list[np.ndarray], list[float]]] = {}
    for tokens, halt, i in zip(said.tokens, said.halt, index, strict=True):
        sample = problems.samples[i]
        grids, halts = by_question.setdefault((sample.task, sample.pair), ([], []))
        grids.append(unview_grid(decode(tokens, side), problems.views[sample.view]))
        halts.append(float(halt))
    found: Ranked = {MAIN: [], SINGLE: []}
    for t in tasks:
        demos = len(problems.tasks[t].train)
        asked = [by_question[t, demos + k] for k in range(len(problems.tasks[t].test))]
        ranked = [[c.grid for c in vote(*a)] for a in asked]
        most = max(map(len, ranked))
        found[MAIN].append([[r[min(k, len(r) - 1)] for r in ranked] for k in range(most)])
        found[SINGLE].append([[grids[0] for grids, _ in asked]])
    return found


def measure(experiment: HybridExperiment, params: PyTree) -> dict[str, float]:
    """Exact match, shape and cells of the identity view on training and validation problems, between steps."""
    problems, found = experiment.problems, {}
    index = [i for i in problems.tests(range(len(problems.tasks))) if problems.samples[i].view == 0]
    said = experiment.predict(params, index)
    grids: dict[int, list[np.ndarray]] = {}
    for tokens, i in zip(said.tokens, index, strict=True):
        grids.setdefault(problems.samples[i].task, []).append(decode(tokens, experiment.config.model.side))
    for name, part in problems.parts.items():
        total = scoring.summarize([scoring.score(problems.tasks[t], [grids[t]]) for t in part])
        prefix = "val/train_" if name == "training" else "val/"
        found |= {f"{prefix}exact": total.pass1 / total.tasks, f"{prefix}cells": total.cells, f"{prefix}shape": total.shapes}
    return found | {"val/steps": float(said.steps.mean())}


def rows(experiment: HybridExperiment, ranked: Ranked, part: range) -> list[list[str]]:
    """Lines under COLUMNS of these tasks' answers, and of answers that take no thought."""
    tasks, side = [experiment.problems.tasks[t] for t in part], experiment.config.model.side
    found = []
    for name, given in (ranked | {name: [p(t) for t in tasks] for name, p in PLAIN.items()}).items():
        scores = [scoring.score(t, a) for t, a in zip(tasks, given, strict=True)]
        canvas = np.mean([canvas_share(t, a[0], side) for t, a in zip(tasks, given, strict=True)])
        found.append([*scoring.row(name, scores), f"{canvas:.1%}"])
    return found


def summarize(experiment: HybridExperiment, params: PyTree, report: Report) -> None:
    """A table for the training problems, one for the validation problems, and pictures of both."""
    problems = experiment.problems
    for kind, part in problems.parts.items():
        name, ranked = f"{kind} problems", answers(experiment, params, part)
        report.table(f"{name}, {experiment.config.data.views} views", COLUMNS, rows(experiment, ranked, part))
        path = report.run / "pictures" / f"{kind}_problems.png"
        report.picture(name, hybrid_pages.page([problems.tasks[t] for t in part], ranked[MAIN], name, path))


def run(opened: OpenRun, report: Report) -> None:
    """`python -m jaxsrc.evaluate RUN` for a run of kind hybrid."""
    from jaxsrc.hybrid_experiment import HybridExperiment

    assert isinstance(opened.experiment, HybridExperiment)
    summarize(opened.experiment, opened.params, report)
