"""A task under one canvas, ready for extension: the known cells with their keys per group, the query cells beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxsrc.solver.canvas import Canvas
from jaxsrc.solver.sections import Sections, sections


@dataclass(frozen=True)
class Group:
    """One group of sections over all cells of a problem (known cells first, then query cells).

    codes: int32[cells], equal for cells that agree; distance: float32[values, values] between the codes, 1 for values
    that differ in every column (scaled by the square root of the number of columns).
    """

    codes: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class Keys:
    """Distinct cells of a subset of groups: distance float32[n, n], key of each cell int32[cells], n."""

    distance: np.ndarray
    of_cell: np.ndarray
    known: int


def categorical(values: np.ndarray) -> Group:
    """Group of int[cells, f] categorical values: scaled Hamming distance sum_j [x_j != y_j] / sqrt(f)."""
    rows, codes = np.unique(values, axis=0, return_inverse=True)
    distance = np.zeros((len(rows), len(rows)), np.float32)
    for column in rows.T:
        distance += column[:, None] != column[None]
    return Group(codes.ravel().astype(np.int32), distance / np.sqrt(values.shape[1], dtype=np.float32))


class Problem:
    """Known cells (all demonstrations' output cells) and query cells of a task under one canvas.

    Attributes: colors int[known]; demo int32[known] (which demonstration a cell is of); sources int16[cells, s];
    groups name -> Group over all cells; shapes of the queries.
    """

    def __init__(self, canvas: Canvas, outputs: Sequence[np.ndarray], only: frozenset[str] | None = None):
        self.name = canvas.name
        self.train = [sections(layers) for layers in canvas.train]
        self.test = [sections(layers) for layers in canvas.test]
        every: list[Sections] = [*self.train, *self.test]
        self.colors = np.concatenate([o.ravel() for o in outputs]).astype(np.int32)
        self.demo = np.repeat(np.arange(len(outputs)), [o.size for o in outputs]).astype(np.int32)
        self.demos = len(outputs)
        self.known = len(self.colors)
        self.sources = np.concatenate([s.sources.reshape(-1, s.sources.shape[-1]) for s in every])
        self.shapes = [s.shape for s in self.test]
        self.groups: dict[str, Group] = {}
        for name in self.train[0].groups:
            if only is None or name in only:
                flat = [s.groups[name].reshape(-1, s.groups[name].shape[-1]) for s in every]
                self.groups[name] = categorical(np.concatenate(flat))

    def codes(self, subset: Sequence[str]) -> np.ndarray:
        """One integer a cell, equal where all groups of the subset agree (values are not contiguous)."""
        joint = np.zeros(len(self.sources), np.int64)
        for name in subset:
            group = self.groups[name]
            joint = joint * len(group.distance) + group.codes
            if len(group.distance) > 1 and joint.max() > 2**40:
                joint = np.unique(joint, return_inverse=True)[1].ravel()
        return joint

    def keys(self, subset: Sequence[str], queries: bool = False) -> Keys:
        """Distinct keys of the known cells; with `queries` those of the query cells follow them."""
        joint = self.codes(subset)
        _, first, inverse = np.unique(joint[: self.known], return_index=True, return_inverse=True)
        inverse = inverse.ravel()
        known = len(first)
        if queries:
            _, more, back = np.unique(joint[self.known :], return_index=True, return_inverse=True)
            first = np.concatenate([first, more + self.known])
            inverse = np.concatenate([inverse, back.ravel() + known])
        distance = np.zeros((len(first), len(first)), np.float32)
        for name in subset:
            group = self.groups[name]
            code = group.codes[first]
            distance += group.distance[code[:, None], code[None]]
        return Keys(distance, inverse.astype(np.int32), known)
