"""Activation patching: which token of which layer carries what two matched expressions differ in."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsrc.analysis.subject import Rows, Subject
from jaxsrc.errors import UserError
from jaxsrc.modules.taps import Taps
from jaxsrc.protocol import PyTree


@dataclass(frozen=True)
class Patched:
    """recovered: [layers + 1, n], the share of the difference that comes back when a clean token's stream replaces the
    corrupted one's before each block (last row: after all of them); pairs: how many; gap: the clean difference, in nats."""

    stages: list[str]
    recovered: Float[np.ndarray, "s n"]
    pairs: int
    gap: float


def patch(subject: Subject, params: PyTree, clean: Rows, corrupt: Rows) -> Patched:
    """Scan every layer and token in one program; layers before the patched one are those of the corrupted run.

    Measured: log p(clean label) - log p(corrupted label), summed over the asked tokens where the labels differ, as a share of
    the way from the corrupted run's value to the clean one's. Pairs without such a token are left out.
    """

    @jax.jit
    def scan(params: PyTree, clean: Rows, corrupt: Rows) -> tuple[Array, Array, Array]:
        differs = clean.asked & corrupt.asked & (clean.labels != corrupt.labels)

        def margin(x: Array) -> Array:
            logits = subject.read(params, x, Taps())
            pick = lambda labels: jnp.take_along_axis(logits, labels[..., None], -1)[..., 0]
            return ((pick(clean.labels) - pick(corrupt.labels)) * differs).sum(-1)

        streams = []
        for rows in (clean, corrupt):
            x, here = subject.embed(params, rows), []
            for i in range(len(subject.names)):
                here.append(x)
                x = subject.block(params, i, x, rows, Taps())
            streams.append([*here, x])
        good, bad = streams

        def one(i: int, at: Array) -> Array:
            chosen = (jnp.arange(good[i].shape[1]) == at)[None, :, None]
            x = jnp.where(chosen, good[i], bad[i])
            return margin(subject.onward(params, i, x, corrupt))

        places = jnp.arange(clean.tokens.shape[1])
        found = jnp.stack([jax.lax.map(lambda at, i=i: one(i, at), places) for i in range(len(good))])
        return margin(good[-1]), margin(bad[-1]), found

    high, low, found = (np.asarray(x, np.float64) for x in scan(params, clean, corrupt))
    live = np.abs(high - low) > 1e-6
    if not live.any():
        raise UserError("expected pairs whose answers differ, got none; analyse more items (--items)")
    gap = (high - low)[live].mean()
    return Patched(["embedding", *subject.names], (found - low)[..., live].mean(-1) / gap, int(live.sum()), float(gap))
