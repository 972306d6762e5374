"""The closed-form extension against gradients, at the same data and on a scale that the encoder never trained on.

Arms, all on the same test tasks, whose answers' sizes are given (`episodes.fitting_canvas`), and with the same readout
(indicators of colours and copies):
    extension   the run's encoder, least squares in closed form
    readout     the same keys, the readout fitted to each task by Adam on the same squared loss
    fine-tune   the run's encoder trained on by gradient on larger tasks, then the closed form
    scratch     a new encoder trained by gradient on the same larger tasks, then the closed form
Seconds count the host's sections (of the test tasks, and of the training tasks where an arm trains on them), encoding,
fitting and prediction; compilation is measured apart; checking the answers is not counted in any arm. The first three arms
share an encoder trained on smaller grids; its training is told beside them and counted in none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.data.arc import SIDES
from jaxsrc.errors import UserError
from jaxsrc.models.sheaf_solver import value_targets
from jaxsrc.modules.kan_extension import fit_primal
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.protocol import PyTree
from jaxsrc.solver.episodes import Episode, EpisodeSampler, StalkPair, StalkTask, pack, stalk_task
from jaxsrc.solver.readout import MODES, decode
from jaxsrc.state import init_state
from jaxsrc.step import CompiledOnce, train_step

DEMONSTRATIONS = 3
CHUNK = 25  # gradient steps of the readout between two looks at its answers


@dataclass(frozen=True)
class Point:
    """An arm after some seconds: test tasks whose every test output is exactly right. fit: seconds of them that fitted the
    readouts on keys that lay ready, where that was timed alone."""

    arm: str
    seed: int
    seconds: float
    exact: int
    steps: int
    fit: float = 0.0


@dataclass(frozen=True)
class Split:
    """Tasks of one scale that the run's encoder has not trained on: for the gradient arms, and for all arms to be tested."""

    train: list[StalkTask]
    test: list[StalkTask]
    section_seconds: float  # host time to make the test tasks' sections
    train_seconds: float  # and the training tasks'


def split(experiment: ArcExperiment, scale: int, limit: int) -> Split:
    """Training tasks whose canvas is larger than any the run trained on, every other one (by content) for the test.

    Errors: UserError where there are not two of them.
    """
    trained = max((c.side for c in experiment.config.stages if c.steps), default=0)
    train: list[tuple[StalkTask, float]] = []
    test: list[tuple[StalkTask, float]] = []
    for task in sorted(experiment.tasks[0], key=lambda t: t.digest):
        start = time.perf_counter()
        found = stalk_task(task)
        took = time.perf_counter() - start
        if found is None or not trained < found.side <= SIDES[scale]:
            continue
        (test if len(test) <= len(train) else train).append((found, took))
    train, test = train[:limit], test[:limit]
    if not train:
        raise UserError(
            f"--scale: expected training tasks with sides of {trained + 1} to {SIDES[scale]}, which the run did not train on, "
            f"got {len(test)}; choose a larger scale"
        )
    return Split([t for t, _ in train], [t for t, _ in test], sum(s for _, s in test), sum(s for _, s in train))


def queries(tasks: Sequence[StalkTask], side: int) -> list[list[tuple[Episode, np.ndarray]]]:
    """For every task its test inputs as episodes (first demonstrations, hidden query) with their true colours."""
    out = []
    for task in tasks:
        demos: list[StalkPair | None] = list(task.pairs[: min(task.demonstrations, DEMONSTRATIONS)])
        demos += [None] * (DEMONSTRATIONS - len(demos))
        tests = task.pairs[task.demonstrations :]
        hidden = [StalkPair(q.sources, q.attributes, np.zeros_like(q.colors)) for q in tests]
        out.append([(pack([*demos, h], side), q.colors) for h, q in zip(hidden, tests, strict=True)])
    return out


class Arms:
    """Everything compiled before a clock starts."""

    def __init__(self, experiment: ArcExperiment, tasks: Split, side: int):
        self.experiment, self.tasks, self.side = experiment, tasks, side
        self.queries = queries(tasks.test, side)
        graph = experiment.graph
        self.compile_seconds: dict[str, float] = {}
        self.fit_seconds: dict[int, float] = {}  # of the closed form on keys that lie ready, by seed

        def closed(params: PyTree, episode: Episode) -> jax.Array:
            return nnx.merge(graph, params)(episode).values

        def problem(params: PyTree, episode: Episode) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            keys = nnx.merge(graph, params).keys(episode)[0]
            mask = episode.mask[:-1].reshape(-1).astype(jnp.float32)
            values = value_targets(episode)[:-1].reshape(len(mask), -1)
            return keys[:-1].reshape(len(mask), -1), values, mask, keys[-1].reshape(-1, keys.shape[-1])

        def fit(params: PyTree, known: jax.Array, values: jax.Array, mask: jax.Array, query: jax.Array) -> jax.Array:
            ridge = nnx.softplus(nnx.merge(graph, params).ridge[...]) + 1e-3
            return query @ fit_primal(known, values, mask, ridge)

        def descend(state: Any, known: jax.Array, values: jax.Array, mask: jax.Array, query: jax.Array) -> Any:
            optimizer = optax.adam(0.03)

            def loss(w: jax.Array) -> jax.Array:
                return jnp.sum(((known @ w - values) * mask[:, None]) ** 2) / mask.sum()

            def one(state: Any, _: None) -> tuple[Any, None]:
                w, opt = state
                updates, opt = optimizer.update(jax.grad(loss)(w), opt)
                return (optax.apply_updates(w, updates), opt), None

            state, _ = jax.lax.scan(one, state, None, length=CHUNK)
            return state, query @ state[0]

        self.closed, self.problem, self.descend, self.fit = (jax.jit(f) for f in (closed, problem, descend, fit))

    def exact(self, answers: Sequence[Sequence[np.ndarray]]) -> int:
        """Tasks with every test output right; answers are extended values [h*w, v] of every query."""
        hits = 0
        for task, values in zip(self.queries, answers, strict=True):
            right = []
            for (episode, truth), value in zip(task, values, strict=True):
                colors = decode(value, episode.sources[-1].reshape(len(value), -1), MODES[2])
                h, w = truth.shape
                right.append(np.array_equal(colors.reshape(self.side, self.side)[:h, :w], truth))
            hits += all(right)
        return hits

    def extension(self, params: PyTree) -> tuple[float, int]:
        """(seconds, exact) of the closed form on all test tasks."""
        start = time.perf_counter()
        np.asarray(self.closed(params, self.queries[0][0][0]))
        self.compile_seconds.setdefault("extension", time.perf_counter() - start)
        start = time.perf_counter()
        answers = [[np.asarray(self.closed(params, e)) for e, _ in task] for task in self.queries]
        return self.tasks.section_seconds + time.perf_counter() - start, self.exact(answers)

    def readout(self, params: PyTree, seed: int, chunks: int) -> list[Point]:
        """The readout of every task by gradient from a small random start."""
        jax.block_until_ready(self.problem(params, self.queries[0][0][0]))  # compiles
        start = time.perf_counter()
        problems = [self.problem(params, episode) for task in self.queries for episode, _ in task]
        jax.block_until_ready(problems)
        seconds = self.tasks.section_seconds + time.perf_counter() - start
        states = []
        for index, (known, values, _, _) in enumerate(problems):
            w = 0.01 * jax.random.normal(jax.random.key(seed * 10_000 + index), (known.shape[-1], values.shape[-1]))
            states.append((w, optax.adam(0.03).init(w)))
        jax.block_until_ready(self.descend(states[0], *problems[0]))
        jax.block_until_ready(self.fit(params, *problems[0]))
        start = time.perf_counter()
        jax.block_until_ready([self.fit(params, *p) for p in problems])
        self.fit_seconds[seed] = time.perf_counter() - start
        points, fitted = [], 0.0
        for chunk in range(chunks):
            start = time.perf_counter()
            flat = []
            for i, problem in enumerate(problems):
                states[i], value = self.descend(states[i], *problem)
                flat.append(np.asarray(value))
            fitted += time.perf_counter() - start
            grouped, at = [], 0
            for task in self.queries:
                grouped.append(flat[at : at + len(task)])
                at += len(task)
            points.append(Point("readout", seed, seconds + fitted, self.exact(grouped), (chunk + 1) * CHUNK, fitted))
        return points

    def training(self, arm: str, params: PyTree | None, seed: int, budget: float, looks: int) -> list[Point]:
        """Gradient training of the whole encoder for `budget` seconds, then the closed form, `looks` times on the way."""
        sampler = EpisodeSampler(self.tasks.train, self.side, 16, DEMONSTRATIONS)
        config = OptimConfig(learning_rate=5e-4 if params is not None else 2e-3, warmup_steps=10, schedule="constant")
        optimizer = make_optimizer(config, 10**6)
        made = init_state(self.experiment, optimizer, seed + 1, ema=False, scaled=False)
        if params is not None:
            made = type(made)(**{**made.__dict__, "params": jax.tree.map(jnp.copy, params)})
        step = CompiledOnce(
            train_step(self.experiment, optimizer, np.dtype("float32"), 0.0), arm, ("state", "batch"), donate=(0,)
        )
        step.compile(made, jax.tree.map(jnp.asarray, sampler.batch_at(seed, 0)))
        self.compile_seconds[arm] = step.compile_seconds
        points, trained, steps = [], self.tasks.train_seconds, 0
        budget += trained
        for look in range(1, looks + 1):
            start = time.perf_counter()
            end = self.tasks.train_seconds + (budget - self.tasks.train_seconds) * look / looks
            while trained + time.perf_counter() - start < end:
                made, metrics = step(made, jax.device_put(sampler.batch_at(seed, steps)))
                jax.block_until_ready(metrics)
                steps += 1
            trained += time.perf_counter() - start
            seconds, exact = self.extension(made.params)
            points.append(Point(arm, seed, trained + seconds, exact, steps))
        return points


def measure(
    experiment: ArcExperiment,
    params: PyTree,
    *,
    scale: int,
    seeds: int,
    budget: float,
    limit: int,
    say: Callable[[str], None],
) -> tuple[list[Point], Arms]:
    """All arms and seeds, one after another in this process; `say` hears what comes next."""
    say("reading the data")
    arms = Arms(experiment, split(experiment, scale, limit), SIDES[scale])
    points = []
    for seed in range(seeds):
        say(f"seed {seed} of {seeds}: closed form and readout, then {2 * budget:.0f} s of gradients and the compiling")
        seconds, exact = arms.extension(params)
        slow = arms.readout(params, seed, 24)
        points.append(Point("extension", seed, seconds, exact, 0, arms.fit_seconds[seed]))
        points += slow
        points += arms.training("fine-tune", params, seed, budget, 3)
        points += arms.training("scratch", None, seed, budget, 3)
    return points, arms


def rows(points: Sequence[Point]) -> list[list[str]]:
    """A line an arm and seed: best score and when it was first there, and how much later than the extension it reached the
    lower of its own best and the extension's score."""
    out = []
    base = {p.seed: p for p in points if p.arm == "extension"}
    for arm in dict.fromkeys(p.arm for p in points):
        for seed, first in base.items():
            mine = [p for p in points if p.arm == arm and p.seed == seed]
            last = mine[-1]
            best = max(p.exact for p in mine)
            reached = next((p.seconds for p in mine if p.exact >= first.exact), None)
            same = f"{reached / first.seconds:.1f}" if reached else f"never in {last.seconds / first.seconds:.1f}"
            own = next(p.seconds for p in mine if p.exact == best)
            seconds = [f"{own:.1f}", f"{last.seconds:.1f}"]
            at = next(p for p in mine if p.exact == best)
            alone = f"{at.fit / first.fit:.1f}" if at.fit else "-"
            out.append([arm, str(seed), str(best), *seconds, str(last.steps), same, f"{own / first.seconds:.1f}", alone])
    return out


COLUMNS = (
    *("arm", "seed", "best exact", "seconds to it", "seconds in all", "gradient steps"),
    *("ratio to the extension's score", "ratio to its own best", "of the fit alone"),
)

