"""Greedy choice of section groups by the closed-form leave-one-demonstration-out error of their extension.

Kernel of a subset S of groups: k(x, y) = exp(-sum_{g in S} d_g(x, y) / width). Known cells that agree on S are one key with a
weight (how many cells) and a mean value, so the system is as small as the number of distinct keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy import sparse

from jaxsrc.modules.kan_extension import fit_dual, leave_one_out_dual
from jaxsrc.solver.candidate import Candidate, Family
from jaxsrc.solver.problem import Keys, Problem
from jaxsrc.solver.readout import COLORS, MODES, SHARPNESS, Mode, color_scores, decode, indicators

KEY_BUCKETS = (64, 256, 768)
CELL_BUCKETS = (256, 1024, 3072, 9000)
DEMO_BUCKETS = (4, 10)
BATCH = 8


def bucket(size: int, buckets: Sequence[int]) -> int | None:
    return next((b for b in buckets if size <= b), None)


@jax.jit
def leave_one_out(
    distance: Float[Array, "v n n"],
    count: Float[Array, "v p n"],
    total: Float[Array, "v p n k"],
    key: Int[Array, "v m"],
    demo: Int[Array, "m"],
    colors: Int[Array, "m"],
    sources: Int[Array, "m s"],
    width: Float[Array, ""],
    ridge: Float[Array, ""],
) -> tuple[Float[Array, "v r p"], Float[Array, "v r p"]]:
    """Wrong cells and mean cross-entropy of every left-out demonstration, for v subsets and the r readouts.

    count and total: cells, and sum of their values, of every key in every demonstration. Padding cells have demo = p.
    """
    demos = count.shape[1]
    member = jax.nn.one_hot(demo, demos, dtype=jnp.float32)  # [m, p]
    cells = jnp.maximum(member.sum(0), 1.0)

    def one(distance, count, total, key):
        kernel = jnp.exp(-distance / width)
        left_out = leave_one_out_dual(kernel, count, total, ridge)  # [p, n, k]
        mine = left_out[jnp.minimum(demo, demos - 1), key]  # [m, k]
        wrong, losses = [], []
        for scores in color_scores(mine, sources):
            picked = jnp.argmax(scores, -1) != colors
            loss = -jax.nn.log_softmax(SHARPNESS * scores)[jnp.arange(len(colors)), colors]
            wrong.append(member.T @ picked)
            losses.append(member.T @ jnp.minimum(loss, 14.0) / cells)
        return jnp.stack(wrong), jnp.stack(losses)

    return jax.vmap(one)(distance, count, total, key)


@jax.jit
def extend(
    distance: Float[Array, "q n"],
    within: Float[Array, "n n"],
    count: Float[Array, "n"],
    total: Float[Array, "n k"],
    width: Float[Array, ""],
    ridge: Float[Array, ""],
) -> Float[Array, "q k"]:
    """Values at q query keys from n known keys seen `count` times, with values that add up to `total`."""
    a = fit_dual(jnp.exp(-within / width), count, total, ridge)
    return jnp.exp(-distance / width) @ a


def pad(array: np.ndarray, size: int, axis: int = 0, value: int | float = 0) -> np.ndarray:
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, size - array.shape[axis])
    return np.pad(array, widths, constant_values=value)


class Selector:
    """Evaluates subsets of a problem's groups in batches of static shape."""

    def __init__(
        self, problem: Problem, width: float, ridge: float, group_price: float, family: Family = "sections"
    ):
        self.family: Family = family
        self.spent = 0.0
        self.problem, self.width, self.ridge, self.price = problem, np.float32(width), np.float32(ridge), group_price
        cells = bucket(problem.known, CELL_BUCKETS)
        demos = bucket(problem.demos, DEMO_BUCKETS)
        self.usable = cells is not None and demos is not None
        if cells is None or demos is None:
            return
        self.cells, self.demos = cells, demos
        known = problem.known
        self.colors = pad(problem.colors, cells)
        self.demo = pad(problem.demo, cells, value=self.demos)
        self.sources = pad(problem.sources[:known], cells, value=COLORS).astype(np.int32)
        self.values = indicators(problem.colors, problem.sources[:known])

    def cost(self, size: int) -> float:
        """Operations of one batch of systems of `size` keys, in units of 1e9: factors, solves, products and scores."""
        columns = self.values.shape[1]
        fits = self.demos * (size**3 / 3 + 6 * size**2 * columns)
        return BATCH * (fits + 10 * self.cells * columns) / 1e9

    def evaluate(self, subsets: list[tuple[str, ...]], effort: float = math.inf) -> list[Candidate]:
        """Leave-one-out record of every subset in every readout; subsets with too many keys are left out.

        Smallest systems first; once the selector has spent `effort` (in units of 1e9 operations) no batch starts.
        """
        by_size: dict[int, list[tuple[tuple[str, ...], Keys]]] = {}
        for subset in subsets:
            keys = self.problem.keys(subset)
            size = bucket(keys.known, KEY_BUCKETS)
            if size:
                by_size.setdefault(size, []).append((subset, keys))
        found = []
        for size, entries in sorted(by_size.items()):
            for start in range(0, len(entries), BATCH):
                if self.spent >= effort:
                    return found
                self.spent += self.cost(size)
                found += self._batch(size, entries[start : start + BATCH])
        return found

    def tally(self, keys: Keys, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Cells of every key in every demonstration, float32[p, size], and the sums of their values, [p, size, k]."""
        known, rows = self.problem.known, self.demos * size
        place = self.problem.demo.astype(np.int64) * size + keys.of_cell[:known]
        gather = sparse.csr_matrix((np.ones(known, np.float32), (place, np.arange(known))), shape=(rows, known))
        count = np.bincount(place, minlength=rows).astype(np.float32)
        return count.reshape(self.demos, size), (gather @ self.values).reshape(self.demos, size, -1)

    def _batch(self, size: int, entries: list[tuple[tuple[str, ...], Keys]]) -> list[Candidate]:
        distance = np.full((BATCH, size, size), 50.0, np.float32)
        key = np.zeros((BATCH, self.cells), np.int32)
        count = np.zeros((BATCH, self.demos, size), np.float32)
        total = np.zeros((BATCH, self.demos, size, self.values.shape[1]), np.float32)
        for index, (_, keys) in enumerate(entries):
            count[index], total[index] = self.tally(keys, size)
            distance[index, : keys.known, : keys.known] = keys.distance
            key[index, : len(keys.of_cell)] = keys.of_cell
        wrong, loss = leave_one_out(
            distance, count, total, key, self.demo, self.colors, self.sources, self.width, self.ridge
        )
        p = self.problem.demos
        wrong, loss = np.asarray(wrong)[..., :p], np.asarray(loss)[..., :p].mean(-1)
        exact = (wrong == 0).mean(-1)
        return [
            Candidate(
                family=self.family,
                canvas=self.problem.name,
                sections=subset,
                mode=mode,
                exact=float(exact[i, j]),
                loss=float(loss[i, j]) + self.price * len(subset),
                predict=partial(self.predict, subset, mode),
            )
            for i, (subset, _) in enumerate(entries)
            for j, mode in enumerate(MODES)
        ]

    def greedy(self, rounds: int, effort: float) -> list[Candidate]:
        """Add the group that lowers the error most, until no group does; every subset tried is a candidate."""
        tried: list[Candidate] = []
        current: tuple[str, ...] = ()
        best: tuple[float, float] | None = None
        distinct = 0
        for _ in range(rounds):
            subsets = []
            for name in self.problem.groups:
                if name in current:
                    continue
                subset = (*current, name)
                if len(np.unique(self.problem.codes(subset)[: self.problem.known])) > distinct:
                    subsets.append(subset)
            records = self.evaluate(subsets, effort)
            if not records:
                break
            tried += records
            top = min(records, key=lambda c: c.rank)
            if best is not None and not (top.rank[0] < best[0] or top.loss - self.price < 0.98 * best[1]):
                break
            best, current = top.rank, top.sections
            distinct = len(np.unique(self.problem.codes(current)[: self.problem.known]))
        return tried

    def predict(self, subset: tuple[str, ...], mode: Mode) -> list[np.ndarray]:
        """Output grids of every test input."""
        keys = self.problem.keys(subset, queries=True)
        n, q = keys.known, len(keys.distance) - keys.known
        size = bucket(n, KEY_BUCKETS)
        assert size is not None
        rows = -(-q // 128) * 128
        within = pad(pad(keys.distance[:n, :n], size, value=50.0), size, axis=1, value=50.0)
        across = pad(pad(keys.distance[n:, :n], rows), size, axis=1, value=50.0)
        known = self.problem.known
        count, total = self.tally(keys, size)
        values = extend(across, within, count.sum(0), total.sum(0), self.width, self.ridge)
        values = np.asarray(values)[keys.of_cell[known:] - n]
        colors = decode(values, self.problem.sources[known:], mode)
        grids, start = [], 0
        for h, w in self.problem.shapes:
            grids.append(colors[start : start + h * w].reshape(h, w))
            start += h * w
        return grids
