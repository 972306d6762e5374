"""One way to answer a task, with its leave-one-demonstration-out record, and answers ranked by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from jaxsrc.solver.readout import Mode

Family = Literal["sections", "learned", "hand-made"]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """family: what kind of sections it extends; exact: share of demonstrations predicted exactly from the others; loss:
    mean cross-entropy of left-out cells plus the price of each group; predict: output grids of every test input."""

    family: Family
    canvas: str
    sections: tuple[str, ...]
    mode: Mode
    exact: float
    loss: float
    predict: Callable[[], list[np.ndarray]]

    @property
    def rank(self) -> tuple[float, float]:
        """Smaller is better: demonstrations right first, then the loss."""
        return -self.exact, self.loss

    @property
    def how(self) -> str:
        return f"{self.canvas}: {' + '.join(self.sections)} ({self.mode}), leave-one-out {self.exact:.0%}"


@dataclass(frozen=True)
class Answer:
    """Predicted grids, one a test input, and the first candidate that gave them."""

    grids: list[np.ndarray]
    candidate: Candidate


def answers(candidates: Sequence[Candidate], count: int, tries: int) -> list[Answer]:
    """The first `count` distinct answers of at most `tries` candidates, best rank first."""
    found: list[Answer] = []
    for candidate in sorted(candidates, key=lambda c: c.rank)[:tries]:
        grids = candidate.predict()
        if not any(all(np.array_equal(a, b) for a, b in zip(grids, f.grids, strict=True)) for f in found):
            found.append(Answer(grids, candidate))
        if len(found) == count:
            break
    return found
