"""An ARC question as text for a language model, and which token is which cell of the test input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from jaxsrc.data.arc import Task
from jaxsrc.data.grid_tokens import check_grid
from jaxsrc.errors import UserError

VERSION = "arc-text-1"
"""Goes into every cache key: a change to what `write` gives must change it."""

Style = Literal["spaced", "compact"]


@dataclass(frozen=True)
class Text:
    """text: the prompt, the question's input last; cells: start of each of its cells in the text, row by row, [h w]."""

    text: str
    cells: tuple[int, ...]
    shape: tuple[int, int]


def rows(grid: np.ndarray, style: Style) -> str:
    """One line a row; spaced: one digit, one space, so that a tokenizer that joins digits gives each cell a token."""
    between = " " if style == "spaced" else ""
    return "\n".join(between.join(str(int(c)) for c in row) for row in grid)


def write(task: Task, style: Style = "spaced") -> Text:
    """Demonstrations, then the test input and the word that the answer would follow; the answer itself is never read.

    Errors: UserError for a grid that is none, and for a demonstration without an output.
    """
    parts = ["Each example turns an input grid into an output grid by one rule.\n\n"]
    for i, pair in enumerate(task.train):
        if pair.output is None:
            raise UserError(f"task {task.id}: expected demonstrations with outputs, got none in pair {i}; mend the task")
        given, wanted = (check_grid(g, f"task {task.id}, pair {i}") for g in (pair.input, pair.output))
        parts.append(f"Example {i + 1}\nInput\n{rows(given, style)}\nOutput\n{rows(wanted, style)}\n\n")
    asked = check_grid(task.test[0].input, f"task {task.id}, test")
    parts.append("Test\nInput\n")
    start, grid = sum(map(len, parts)), rows(asked, style)
    step = 2 if style == "spaced" else 1
    width = asked.shape[1] * step + (style == "compact")  # a row with its line's end
    cells = tuple(start + r * width + c * step for r in range(asked.shape[0]) for c in range(asked.shape[1]))
    return Text("".join(parts) + grid + "\nOutput\n", cells, (asked.shape[0], asked.shape[1]))


def cell_tokens(text: Text, spans: Sequence[tuple[int, int]]) -> Int[np.ndarray, "c"]:
    """The token that covers each cell's character; spans: first and last + 1 character of each token (0, 0 for BOS)."""
    ends = np.array([b for _, b in spans])
    begins = np.array([a for a, _ in spans])
    found = np.searchsorted(ends, np.array(text.cells), side="right")
    if (found >= len(ends)).any() or (begins[found] > np.array(text.cells)).any():
        raise UserError("expected a token over each cell of the test input, got a gap; check the tokenizer's offsets")
    return found.astype(np.int32)


def fitted(task: Task, style: Style, limit: int, count: int) -> None:
    """UserError that says by how much a prompt of `count` tokens is over the limit, and what can be done."""
    if count > limit:
        raise UserError(
            f"task {task.id}: expected a prompt of at most {limit} tokens, got {count}, {count - limit} over; raise "
            "experiment.features.limit, use style: compact, or set drop: true, which leaves out whole demonstrations"
        )
