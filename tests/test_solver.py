"""The solver: leave-one-out equals refitting, real tasks are solved, and hidden outputs change nothing."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxsrc.data.arc import Pair, Task
from jaxsrc.data.arc_files import load
from jaxsrc.evaluate import ARMS, MAIN, solve_task
from jaxsrc.scoring import score
from jaxsrc.solver.canvas import hypotheses
from jaxsrc.solver.problem import Problem
from jaxsrc.solver.readout import MODES, color_scores, decode, indicators
from jaxsrc.solver.selection import Selector
from jaxsrc.solver.solve import SolverConfig

CONFIG = SolverConfig(rounds=2)
EASY = ("3618c87e", "a416b8f3", "d511f180")  # rays; enlarged; one colour for another


@pytest.fixture(scope="module")
def tasks():
    return {t.id: t for t in load("arcagi1:training")}


def problem_of(task):
    outputs = [p.output for p in task.train]
    return Problem(hypotheses([p.input for p in task.train], outputs, [p.input for p in task.test])[0], outputs)


def test_leave_one_out_records_equal_refitting_without_the_demonstration(tasks):
    task = tasks["3618c87e"]
    subset = ("self", "rays")
    record = Selector(problem_of(task), 1.0, 0.1, 0.0).evaluate([subset])
    for mode in MODES:
        hits = []
        for i, held in enumerate(task.train):
            rest = tuple(p for j, p in enumerate(task.train) if j != i)
            refit = Task("x", "x", rest, (Pair(held.input, None),))
            predicted = Selector(problem_of(refit), 1.0, 0.1, 0.0).predict(subset, mode)[0]
            hits.append(np.array_equal(predicted, held.output))
        assert next(c for c in record if c.mode == mode).exact == pytest.approx(np.mean(hits))


def test_scores_on_the_device_and_on_the_host_agree():
    rng = np.random.default_rng(0)
    values, sources = rng.random((20, 17)).astype(np.float32), rng.integers(0, 11, (20, 7)).astype(np.int32)
    for mode, scores in zip(MODES, color_scores(jnp.array(values), jnp.array(sources)), strict=True):
        np.testing.assert_array_equal(np.argmax(scores, -1), decode(values, sources, mode))


def test_copied_indicators_do_not_change_when_colours_are_permuted():
    rng = np.random.default_rng(1)
    colors, sources, permutation = rng.integers(0, 10, 30), rng.integers(0, 10, (30, 5)), rng.permutation(10)
    a, b = indicators(colors, sources), indicators(permutation[colors], permutation[sources])
    np.testing.assert_array_equal(a[:, 10:], b[:, 10:])


@pytest.mark.parametrize("name", EASY)
def test_real_tasks_are_solved_without_learning(tasks, name):
    solved = solve_task(tasks[name], CONFIG, None)
    assert score(tasks[name], solved.answers[MAIN]).pass2
    assert set(ARMS) <= set(solved.answers)


def test_changing_a_hidden_output_changes_no_answer(tasks):
    task = tasks["3618c87e"]
    poisoned = Task(task.id, task.source, task.train, tuple(Pair(p.input, 9 - p.output) for p in task.test))
    for arm, answers in solve_task(task, CONFIG, None).answers.items():
        other = solve_task(poisoned, CONFIG, None).answers[arm]
        assert len(answers) == len(other)
        for a, b in zip(answers, other, strict=True):
            np.testing.assert_array_equal(a[0], b[0])


def test_a_task_that_no_canvas_fits_has_no_answer():
    rng = np.random.default_rng(2)
    pairs = tuple(Pair(rng.integers(0, 9, (3, 3)), rng.integers(1, 9, (4 + i, 7 - i))) for i in range(3))
    solved = solve_task(Task("none", "none", pairs, (Pair(pairs[0].input, pairs[0].output),)), CONFIG, None)
    assert solved.answers[MAIN] == [] and solved.how == "no candidate"
