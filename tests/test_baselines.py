"""Baselines by hand-made examples, and what they are worth on real tasks."""

import numpy as np
import pytest

from jaxsrc.baselines import BASELINES, constant_color, copy_input
from jaxsrc.data.arc import Pair, Task
from jaxsrc.data.arc_files import load
from jaxsrc.scoring import score, summarize


def filled(h, w, *colors):
    return np.resize(np.array(colors, np.uint8), (h, w))


def test_copy_is_the_input_twice():
    tests = (Pair(filled(2, 3, 1, 2), filled(1, 1, 5)), Pair(filled(3, 1, 4), None))
    first, second = copy_input(Task("a", "made", (Pair(filled(1, 1, 1), filled(1, 1, 2)),), tests))
    for answer in (first, second):
        assert [grid.tolist() for grid in answer] == [pair.input.tolist() for pair in tests]


def test_constant_color_keeps_the_size_where_demonstrations_do():
    demos = (Pair(filled(2, 2, 0), filled(2, 2, 7)), Pair(filled(1, 3, 0), filled(1, 3, 7, 7, 3)))
    answers = constant_color(Task("a", "made", demos, (Pair(filled(4, 5, 1), None), Pair(filled(1, 1, 1), None))))
    assert [[grid.shape for grid in answer] for answer in answers] == [[(4, 5), (1, 1)]] * 2
    assert [{int(c) for grid in answer for c in grid.flat} for answer in answers] == [{7}, {3}]
    assert all(grid.dtype == np.uint8 for answer in answers for grid in answer)


def test_constant_color_takes_the_most_frequent_output_size_otherwise():
    demos = tuple(Pair(filled(5, 5, 0), filled(h, 2, 4)) for h in (1, 3, 3))
    answers = constant_color(Task("a", "made", demos, (Pair(filled(6, 6, 1), None),)))
    assert [grid.shape for answer in answers for grid in answer] == [(3, 2), (3, 2)]
    assert [int(answer[0][0, 0]) for answer in answers] == [4, 0]


@pytest.mark.parametrize("source, constants", [("arcagi1:training", (1, 3)), ("arcagi1:evaluation", (1, 2))])
def test_what_they_are_worth(source, constants):
    tasks = load(source)
    found = {name: summarize([score(t, answers(t)) for t in tasks]) for name, answers in BASELINES.items()}
    copied, constant = found["copy the input"], found["most frequent colour"]
    assert (copied.pass1, copied.pass2, copied.outputs2) == (0, 0, 0)
    assert 0.6 < copied.shapes < 0.7 and 0.45 < copied.cells < copied.shapes
    assert (constant.pass1, constant.pass2) == constants and constant.shapes > copied.shapes
