"""A few training problems and a few unseen ones, cut into samples: a task in a view, and which of its pairs is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
from jaxtyping import Int, Int8
from pydantic import Field

from jaxsrc.data.arc import MAX_SIDE, Pair, Task, deduplicate, refuse_leaks, without_leaks
from jaxsrc.data.arc_files import load
from jaxsrc.data.augment import Black, View, view_task, views
from jaxsrc.data.grid_tokens import check_grid, encode
from jaxsrc.errors import UserError


@dataclass(frozen=True, kw_only=True)
class HybridDataConfig:
    """source: set, folder or file of tasks; train, validate: how many problems, drawn by draw_seed from those with no side
    above max_side; views: of each task, the identity first, then the other dihedral maps and colourings, each with a
    puzzle row of its own; transductive: validation problems' demonstrations (never their test outputs) are trained on;
    translate: move grids about the canvas in training."""

    source: str = "arcagi1:training"
    train: Annotated[int, Field(ge=1)] = 10
    validate: Annotated[int, Field(ge=0)] = 5
    max_side: Annotated[int, Field(ge=1, le=MAX_SIDE)] = 10
    draw_seed: Annotated[int, Field(ge=0)] = 42
    views: Annotated[int, Field(ge=1)] = 8
    black: Black = "fixed"
    transductive: bool = True
    translate: bool = False


@dataclass(frozen=True)
class Sample:
    """One question: a task as seen in a view, the pair of it whose output is asked for, and the demonstrations shown.

    task, view, pair: indices (into `Problems.tasks`, the views, `Task.pairs`); scored: the output is a validation problem's
    test output, which nothing but the scorer may read; shown: the task in the view, without that pair.
    """

    task: int
    view: int
    pair: int
    scored: bool
    shown: Task

    @property
    def question(self) -> np.ndarray:
        return self.shown.test[0].input


@dataclass(frozen=True)
class Problems:
    """Training problems first, then validation problems."""

    tasks: tuple[Task, ...]
    training: int
    config: HybridDataConfig

    @cached_property
    def views(self) -> list[View]:
        return views(-(-self.config.views // 8), seed=self.config.draw_seed, black=self.config.black)[: self.config.views]

    @property
    def parts(self) -> dict[str, range]:
        """The tasks trained on and those that are not, as far as there are any."""
        found = {"training": range(self.training), "validation": range(self.training, len(self.tasks))}
        return {name: part for name, part in found.items() if part}

    @property
    def puzzles(self) -> int:
        """Rows of the puzzle table: one for each task and view."""
        return len(self.tasks) * self.config.views

    def puzzle(self, sample: Sample) -> int:
        return sample.task * self.config.views + sample.view

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """Every pair of every task in every view; the demonstrations of a question are the task's others, tests excluded."""
        found = []
        for t, task in enumerate(self.tasks):
            for v, view in enumerate(self.views):
                seen = view_task(task, view)
                for p, pair in enumerate(seen.pairs):
                    demos = tuple(d for i, d in enumerate(seen.train) if i != p)
                    scored = t >= self.training and p >= len(seen.train)
                    asked = Pair(pair.input, None)  # a question holds no answer
                    found.append(Sample(t, v, p, scored, Task(task.id, task.source, demos, (asked,))))
        return tuple(found)

    @cached_property
    def trainable(self) -> tuple[Int[np.ndarray, "n"], ...]:
        """Indices into `samples` of each task that may be trained on; tasks with none left out."""
        found: list[list[int]] = [[] for _ in self.tasks]
        for i, sample in enumerate(self.samples):
            if not sample.scored and (sample.task < self.training or self.config.transductive):
                found[sample.task].append(i)
        return tuple(np.array(rows, np.int32) for rows in found if rows)

    def tests(self, tasks: range) -> list[int]:
        """Samples that ask for a test output of these tasks, in every view."""
        return [i for i, s in enumerate(self.samples) if s.task in tasks and s.pair >= len(self.tasks[s.task].train)]

    def answer(self, sample: Sample) -> np.ndarray | None:
        """The output asked for, as seen in the view; None for what only the scorer may read, or where it is not known."""
        if sample.scored:
            return None
        return view_task(self.tasks[sample.task], self.views[sample.view]).pairs[sample.pair].output

    def arrays(self, side: int) -> dict[str, Int8[np.ndarray, "..."] | Int[np.ndarray, "n"]]:
        """inputs, labels int8[samples, side * side] (labels of scored samples are all padding), puzzle int32[samples],
        room int32[samples, 2]: cells that the grids may move down and right."""
        inputs = np.stack([encode(s.question, side) for s in self.samples])
        answers = [self.answer(s) for s in self.samples]
        labels = np.stack([np.zeros(side * side, np.int8) if a is None else encode(a, side) for a in answers])
        used = ((inputs > 0) | (labels > 0)).reshape(-1, side, side)
        extent = lambda axis: side - np.argmax(np.flip(used.any(axis), 1), 1)
        room = side - np.stack([extent(2), extent(1)], 1)
        return {
            "inputs": inputs,
            "labels": labels,
            "puzzle": np.array([self.puzzle(s) for s in self.samples], np.int32),
            "room": room.astype(np.int32),
        }


def draw(config: HybridDataConfig) -> Problems:
    """The problems of a configuration, each checked; a function of the source's tasks and of draw_seed alone.

    Errors: UserError for a grid that is no grid, for too few tasks of that size, and for a validation problem that a training
    problem gives away.
    """
    pool = deduplicate(load(config.source))
    for task in pool:
        for i, pair in enumerate(task.pairs):
            for name, grid in (("input", pair.input), ("output", pair.output)):
                if grid is not None:
                    check_grid(grid, f"{config.source}: task {task.id}, pair {i}, {name}")
    return choose([t for t in pool if t.max_side <= config.max_side], config)


def choose(tasks: Sequence[Task], config: HybridDataConfig) -> Problems:
    """Draw the problems from these tasks."""
    wanted = config.train + config.validate
    if len(tasks) < wanted:
        raise UserError(
            f"experiment.data: expected {wanted} tasks of at most {config.max_side} x {config.max_side} in {config.source}, got "
            f"{len(tasks)}; ask for fewer or raise max_side"
        )
    order = np.random.default_rng(config.draw_seed).permutation(len(tasks))
    picked = [tasks[i] for i in order]
    training, rest = picked[: config.train], picked[config.train :]
    held = list(without_leaks(rest, training))[: config.validate]
    if len(held) < config.validate:
        raise UserError(
            f"experiment.data.validate: expected {config.validate} tasks apart from the training ones, got {len(held)}; ask for "
            "fewer"
        )
    refuse_leaks(training, held)
    return Problems((*training, *held), len(training), config)
