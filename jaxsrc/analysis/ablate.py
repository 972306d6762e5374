"""Every head and every feed-forward block switched off in turn, in one program: exact scan, and its first-order estimate.

What does not change is computed once: the blocks before the one in question, and its own attention, whose heads add up in the
stream. Without a head only the feed-forward network of its block is computed again, without a feed-forward block nothing of
it. The last block answers at the positions that are asked for alone. `lax.map` goes over the units of a block one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsrc.analysis.subject import Rows, Subject, score, values
from jaxsrc.modules.taps import Taps
from jaxsrc.protocol import PyTree
from jaxsrc.statistics import bootstrap, holm, mcnemar

Method = Literal["zero", "mean", "resample"]
METHODS: tuple[Method, ...] = ("zero", "mean", "resample")
Pair = tuple[list[Array], list[Array]]  # of every block: heads [b, n, h, d], feed-forward [b, n, w]


def taps_of(subject: Subject) -> tuple[list[str], list[str]]:
    """Tap names of the heads and of the feed-forward outputs, by block."""
    return [f"{n}.attention.heads" for n in subject.names], [f"{n}.feedforward.out" for n in subject.names]


def _edits(subject: Subject, layer: int, mask: Array, new: Pair) -> dict[str, Callable[[Array], Array]]:
    """Edits of one block: value + mask (new - value), mask float[h + 1], the feed-forward block last."""
    heads, out = taps_of(subject)
    return {
        heads[layer]: lambda v: v + mask[:-1][None, None, :, None] * (new[0][layer] - v),
        out[layer]: lambda v: v + mask[-1] * (new[1][layer] - v),
    }


def replacements(subject: Subject, params: PyTree, rows: Rows, method: Method, seed: int = 0) -> Pair:
    """What stands in for the units: zeros, their mean over all tokens that are no padding, or their value in another row."""
    heads, out = taps_of(subject)
    names = [*heads, *out]
    if method == "zero":  # the shapes are enough
        shapes = jax.eval_shape(lambda p, r: values(subject, p, r, names), params, rows)
        blank = {n: jnp.zeros(s.shape, s.dtype) for n, s in shapes.items()}
        return [blank[n] for n in heads], [blank[n] for n in out]
    kept = values(subject, params, rows, names)
    live = (rows.tokens != 0).astype(jnp.float32)

    def new(v: Array) -> Array:
        if method == "mean":
            weight = live.reshape(*live.shape, *[1] * (v.ndim - 2))
            return jnp.broadcast_to((v * weight).sum((0, 1)) / live.sum(), v.shape)
        return v[np.random.default_rng(seed).permutation(len(v))]

    return [new(kept[n]) for n in heads], [new(kept[n]) for n in out]


def asked_at(rows: Rows) -> tuple[Int[Array, "b k"], Rows]:
    """Positions whose labels are asked for, as many for every row as the row with most needs; and the rows at them alone."""
    asked = np.asarray(rows.asked)
    most = max(int(asked.sum(1).max()), 1)
    at = jnp.asarray(np.argsort(~asked, 1, kind="stable")[:, :most].astype(np.int32))
    pick = lambda x: jnp.take_along_axis(x, at, 1)
    return at, Rows(pick(rows.tokens), pick(rows.labels), pick(rows.asked), rows.prefix)


@lru_cache(8)
def make_scan(subject: Subject) -> Callable[[PyTree, Rows, Pair], tuple[Array, Array, Array, Array]]:
    """(params, rows, what stands in) -> loss[b], exact[b] of the whole model, and [units, b] of the model without each unit."""
    heads, out = taps_of(subject)
    last = len(subject.names) - 1

    @jax.jit
    def scan(params: PyTree, rows: Rows, new: Pair, at: Array, asked: Rows) -> tuple[Array, Array, Array, Array]:
        def finish(i: int, x: Array) -> tuple[Array, Array]:
            """The stream after block i to the end."""
            for j in range(i + 1, last + 1):
                x = subject.block(params, j, x, rows, Taps(), at if j == last else None)
            return score(subject.read(params, x, Taps()), asked)

        found, x = [], subject.embed(params, rows)
        for i in range(last + 1):
            cut = (lambda v: jax.vmap(lambda r, a: r[a])(v, at)) if i == last else (lambda v: v)
            taps = Taps(keep=[heads[i], out[i]])
            middle = subject.attend(params, i, x, rows, taps, at if i == last else None)
            x = subject.feed(params, i, middle, taps)
            # what each head adds, and what stands in for it: [b, n, h, w]
            change = subject.outputs(params, i, cut(new[0][i]) - taps.kept[heads[i]])
            streams = jax.lax.map(lambda c, i=i, m=middle: subject.feed(params, i, m + c, Taps()), jnp.moveaxis(change, 2, 0))
            streams = jnp.concatenate([streams, (x + cut(new[1][i]) - taps.kept[out[i]])[None]])
            found.append(jax.lax.map(lambda y, i=i: finish(i, y), streams))
        loss, exact = score(subject.read(params, x, Taps()), asked)
        return loss, exact, jnp.concatenate([f[0] for f in found]), jnp.concatenate([f[1] for f in found])

    return lambda params, rows, new: scan(params, rows, new, *asked_at(rows))


@lru_cache(8)
def _make_slopes(subject: Subject) -> Callable[[PyTree, Rows, Pair], Array]:
    @jax.jit
    def slopes(params: PyTree, rows: Rows, new: Pair) -> Array:
        def loss(masks: Array) -> Array:
            edits = {}
            for i in range(len(subject.names)):
                edits |= _edits(subject, i, masks[i], new)
            return score(subject.forward(params, rows, Taps(edits=edits)), rows)[0].mean()

        return jax.grad(loss)(jnp.zeros((len(subject.names), subject.heads + 1))).reshape(-1)

    return slopes


def first_order(subject: Subject, params: PyTree, rows: Rows, new: Pair) -> Float[np.ndarray, "units"]:
    """Estimated change of the mean loss when each unit is replaced: its derivative along (new - value), one backward pass."""
    return np.asarray(_make_slopes(subject)(params, rows, new))


@dataclass(frozen=True)
class Effects:
    """A scan. loss, exact: [b] of the whole model; loss_without, exact_without: [units, b]; estimate: [units], first order."""

    units: list[str]
    method: Method
    loss: Float[np.ndarray, "b"]
    exact: Bool[np.ndarray, "b"]
    loss_without: Float[np.ndarray, "units b"]
    exact_without: Bool[np.ndarray, "units b"]
    estimate: Float[np.ndarray, "units"]

    @property
    def drops(self) -> Float[np.ndarray, "units"]:
        """Share of rows that are lost without each unit (negative: won)."""
        return self.exact.mean() - self.exact_without.mean(1)

    @property
    def rises(self) -> Float[np.ndarray, "units"]:
        """Rise of the mean loss."""
        return (self.loss_without - self.loss).mean(1)

    def p_values(self) -> list[float]:
        """McNemar's exact test of every unit's answers against the whole model's, Holm-corrected for all units."""
        return holm([mcnemar(self.exact, e) for e in self.exact_without])

    def findings(self, level: float = 0.05) -> list[str]:
        return [u for u, p in zip(self.units, self.p_values(), strict=True) if p < level]

    def table(self) -> list[list]:
        """Ranked lines: unit, answers lost, its interval, rise of the loss, first-order estimate, corrected p."""
        p = self.p_values()
        order = sorted(range(len(self.units)), key=lambda i: (-self.drops[i], -self.rises[i]))
        lines = []
        for i in order:
            low, high = bootstrap(self.exact.astype(float) - self.exact_without[i])
            interval = f"{100 * low:.1f} to {100 * high:.1f}"
            lines.append(
                [
                    self.units[i],
                    f"{100 * self.drops[i]:.1f}",
                    interval,
                    float(self.rises[i]),
                    float(self.estimate[i]),
                    f"{p[i]:.3g}",
                ]
            )
        return lines


TABLE = ("unit", "answers lost, points", "95 %", "rise of loss", "first order", "p, Holm")


def ablate(subject: Subject, params: PyTree, rows: Rows, method: Method, *, batch: int = 200, seed: int = 0) -> Effects:
    """Scan all units over all rows, `batch` rows a call (what is left over is not used)."""
    total = len(rows.tokens)
    batch = min(batch, total)
    scan, parts, estimates = make_scan(subject), [], []
    for begin in range(0, total - batch + 1, batch):
        part = rows.take(slice(begin, begin + batch))
        new = replacements(subject, params, part, method, seed + begin)
        parts.append(jax.device_get(scan(params, part, new)))
        estimates.append(first_order(subject, params, part, new))
    join = lambda i: np.concatenate([p[i] for p in parts], -1)
    return Effects(subject.units, method, join(0), join(1), join(2), join(3), np.mean(estimates, 0))


def group_difference(
    effects: Effects, group: Bool[np.ndarray, "b"], draws: int = 2000, seed: int = 0
) -> list[tuple[float, float]]:
    """Of each unit: answers lost in the group less those lost outside, and its permutation p value (not corrected)."""
    rng = np.random.default_rng(seed)
    lost = effects.exact.astype(float) - effects.exact_without
    spread = lambda g: (lost @ g) / g.sum() - (lost @ ~g) / (~g).sum()
    seen = spread(group)
    extreme = np.zeros(len(lost))
    for _ in range(draws):
        extreme += np.abs(spread(rng.permutation(group))) >= np.abs(seen) - 1e-12
    return [(float(d), float((1 + e) / (1 + draws))) for d, e in zip(seen, extreme, strict=True)]
