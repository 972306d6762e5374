"""What must be beaten: answers that take no thought, two attempts per test input, in the form that scoring takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np

from jaxsrc.data.arc import COLORS, Task


def copy_input(task: Task) -> list[list[np.ndarray]]:
    """The test input itself, in both attempts: a copy has no second guess."""
    copies = [pair.input for pair in task.test]
    return [copies, copies]


def constant_color(task: Task) -> list[list[np.ndarray]]:
    """A grid of the demonstrations' most frequent output colour, then one of the second most frequent.

    Its size is the test input's where every demonstration keeps its size, else the most frequent size of the
    demonstrations' outputs. Equal counts go to the lower colour and to the size seen first.
    """
    outputs = [pair.output for pair in task.train if pair.output is not None]
    keeps = all(pair.output is not None and pair.output.shape == pair.input.shape for pair in task.train)
    size = Counter(output.shape for output in outputs).most_common(1)[0][0]
    counts = np.sum([np.bincount(output.ravel(), minlength=COLORS) for output in outputs], axis=0)
    colors = np.argsort(-counts, kind="stable")[:2]
    return [[np.full(pair.input.shape if keeps else size, color, np.uint8) for pair in task.test] for color in colors]


BASELINES: dict[str, Callable[[Task], list[list[np.ndarray]]]] = {
    "copy the input": copy_input,
    "most frequent colour": constant_color,
}
