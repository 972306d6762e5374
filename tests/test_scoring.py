"""Scores by hand-made examples, intervals against published values, tables that add up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsrc.data.arc import Pair, Task
from jaxsrc.errors import UserError
from jaxsrc.scoring import (
    COLUMNS,
    TaskScore,
    by_scale,
    hits,
    row,
    score,
    summarize,
    wilson,
)

DEMO = Pair(np.ones((2, 2), np.uint8), np.ones((2, 2), np.uint8))
A = np.array([[1, 2], [3, 4]], np.uint8)
B = np.array([[5, 6, 7]], np.uint8)
NEAR_A = np.array([[1, 2], [3, 9]], np.uint8)
WRONG = np.zeros((1, 1), np.uint8)


def task(*truths, name="a"):
    return Task(name, "made", (DEMO,), tuple(Pair(np.zeros((2, 2), np.uint8), truth) for truth in truths))


def counts(found: TaskScore):
    return found.hits1, found.hits2, found.hits_any, found.outputs


def test_one_test_input():
    assert counts(score(task(A), [[A], [WRONG]])) == (1, 1, 1, 1)
    assert counts(score(task(A), [[WRONG], [A]])) == (0, 1, 1, 1)
    third = score(task(A), [[WRONG], [NEAR_A], [A]])
    assert counts(third) == (0, 0, 1, 1) and (third.pass1, third.pass2, third.oracle) == (False, False, True)


def test_a_task_counts_whole_only_if_every_test_input_is_right():
    part = score(task(A, B), [[A, WRONG], [WRONG, WRONG], [WRONG, B]])
    assert counts(part) == (1, 1, 2, 2) and (part.pass1, part.pass2, part.oracle) == (False, False, True)
    # Attempts are per test input: the first answer may be right on one and the second on the other.
    mixed = score(task(A, B), [[A, WRONG], [WRONG, B]])
    assert counts(mixed) == (1, 2, 2, 2) and (mixed.pass1, mixed.pass2, mixed.oracle) == (False, True, True)


def test_no_answer_scores_nothing():
    none = score(task(A, B), [])
    assert counts(none) == (0, 0, 0, 2) and (none.shapes, none.cells) == (0, 0.0) and not none.oracle


def test_cells_count_only_where_the_size_is_right():
    assert score(task(A), [[NEAR_A], [A]]).cells == 0.75
    assert score(task(A, B), [[A, B[:, :2]]]).cells == 0.5
    # A value that broadcasts over the truth is still of the wrong size.
    wrong = score(task(np.zeros((3, 3), np.uint8)), [[WRONG]])
    assert (wrong.shapes, wrong.cells, wrong.hits1) == (0, 0.0, 0)
    assert score(task(A, B), [[A, B + 1]]).shapes == 2


def test_transposes_and_values_of_other_types():
    assert not hits([[B.T]], [B]).any()
    assert hits([[B.astype(np.int64)]], [B]).all()


def test_malformed_calls():
    with pytest.raises(ValueError, match=r"expected 2 grids, one per test input, got 1 in answer 1"):
        score(task(A, B), [[A, B], [A]])
    with pytest.raises(UserError, match=r"task a of made: expected known test outputs to score, got 1 hidden"):
        score(task(A, None), [[A, B]])


@pytest.mark.parametrize(
    "right, total, low, high",
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (1, 29, 0.0061, 0.1718),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_against_published_values(right, total, low, high):  # the last two: Newcombe 1998, table I
    assert wilson(right, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_laws(case):
    right, total = case
    low, high = wilson(right, total)
    assert 0 <= low <= right / total <= high <= 1 and low < high
    assert (low == 0) == (right == 0) and (high == 1) == (right == total)
    assert wilson(total - right, total) == pytest.approx((1 - high, 1 - low), abs=1e-12)
    closer = wilson(4 * right, 4 * total)
    assert closer[1] - closer[0] < high - low
    assert wilson(0, 0) == (0.0, 1.0)


def three():
    return [
        score(task(A, B, name="a"), [[A, WRONG], [WRONG, WRONG], [A, B]]),
        score(task(A, name="b"), [[NEAR_A], [A]]),
        score(task(B, name="c"), [[B]]),
    ]


def test_summary_of_whole_tasks_and_of_single_outputs():
    total = summarize(three())
    assert (total.tasks, total.outputs, total.pass1, total.pass2, total.oracle) == (3, 4, 1, 2, 3)
    assert (total.outputs1, total.outputs2) == (2, 3)
    assert total.task_share2 == pytest.approx((0.5 + 1 + 1) / 3)
    assert total.shapes == 0.75 and total.cells == pytest.approx((1 + 0 + 0.75 + 1) / 4)
    assert total.interval == wilson(2, 3)


def test_no_tasks():
    total = summarize([])
    assert (total.tasks, total.pass2, total.task_share2, total.interval) == (0, 0, 0, (0.0, 1.0))
    assert row("none", [])[1:4] == ["0/0", "0/0", "-"]


def test_a_row_stands_under_its_columns():
    line = dict(zip(COLUMNS, row("mine", three()), strict=True))
    assert line == {
        "method": "mine",
        "pass@1": "1/3",
        "pass@2": "2/3",
        "pass@2 %": "66.7",
        "95 % interval": "20.8-93.9",
        "oracle": "3/3",
        "outputs@1": "2/4",
        "outputs@2": "3/4",
        "shape": "75.0%",
        "cells": "68.8%",
    }


def test_parts_by_scale_and_by_size():
    large = Task("d", "made", (Pair(np.ones((12, 3), np.uint8), np.ones((12, 3), np.uint8)),), (Pair(A, A),))
    scores = [*three(), score(large, [[A]])]
    names = [line[0] for line in by_scale(scores)]
    assert names == ["scale 0 (to 5)", "scale 2 (to 15)", "same size", "size changes"]
    solved = {line[0]: line[2] for line in by_scale(scores)}
    assert solved == {"scale 0 (to 5)": "2/3", "scale 2 (to 15)": "1/1", "same size": "2/2", "size changes": "1/2"}
