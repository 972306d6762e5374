"""A task in, candidates and ranked answers out, without a gradient step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from jaxsrc.solver.candidate import Answer, Candidate, Family, answers
from jaxsrc.solver.canvas import Canvas, hypotheses
from jaxsrc.solver.learned import LearnedSections
from jaxsrc.solver.problem import Problem
from jaxsrc.solver.selection import Selector

HAND_MADE = (
    *("self", "neighbors", "corners", "rays", "diagonal rays", "row colors", "column colors"),
    *("layer 1", "layer 2", "layer 3", "parity", "checker"),
)


@dataclass(frozen=True, kw_only=True)
class SolverConfig:
    """How a task is solved at use.

    width: kernel width in units of one disagreeing group; ridge: lambda of the extension; group_price: cross-entropy that a
    further group must earn; rounds: most groups in one subset; answers: distinct answers kept; tries: candidates turned
    into answers at most; effort: operations, in units of 1e9, spent on the choice of groups under one canvas (counted, not
    timed, so that a slow machine gives the same answers); views: views the learned sections are
    averaged over.
    """

    width: Annotated[float, Field(gt=0)] = 1.0
    ridge: Annotated[float, Field(gt=0)] = 0.1
    group_price: Annotated[float, Field(ge=0)] = 0.02
    rounds: Annotated[int, Field(ge=1)] = 5
    answers: Annotated[int, Field(ge=2)] = 5
    tries: Annotated[int, Field(ge=2)] = 40
    effort: Annotated[float, Field(gt=0)] = 400.0
    views: Annotated[int, Field(ge=1, le=8)] = 2


Grids = Sequence[np.ndarray]


def hand_made(canvas: Canvas, outputs: Grids, config: SolverConfig) -> list[Candidate]:
    """The baseline: one kernel over all hand-made cell features, constant colours, outputs of the input's size only."""
    problem = Problem(canvas, outputs, only=frozenset(HAND_MADE))
    selector = Selector(problem, 8 * config.width, 0.01 * config.ridge, 0.0, family="hand-made")
    if not selector.usable:
        return []
    return [c for c in selector.evaluate([tuple(problem.groups)]) if c.mode == "constant"]


@dataclass(frozen=True)
class Solution:
    """All candidates of a task; `answers(families)` ranks those of some families."""

    candidates: list[Candidate]
    config: SolverConfig

    def answers(self, *families: Family) -> list[Answer]:
        chosen = [c for c in self.candidates if c.family in families]
        return answers(chosen, self.config.answers, self.config.tries)


def solve(
    inputs: Grids, outputs: Grids, tests: Grids, config: SolverConfig, learned: LearnedSections | None = None
) -> Solution:
    """Candidates of a task: inputs and outputs of the demonstrations, test inputs; grids int[h, w]."""
    candidates: list[Candidate] = []
    for canvas in hypotheses(inputs, outputs, tests):
        problem = Problem(canvas, outputs)
        selector = Selector(problem, config.width, config.ridge, config.group_price)
        if selector.usable:
            candidates += selector.greedy(config.rounds, config.effort)
        if canvas.name == "same":
            candidates += hand_made(canvas, outputs, config)
        if learned is not None and canvas.name != "same, transposed":
            candidates += learned.candidates(problem, outputs, config.group_price)
    return Solution(candidates, config)
