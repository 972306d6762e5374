"""What each layer would answer (logit lens), what each part adds to the right answer (direct attribution), attention patterns."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsrc.analysis.ablate import taps_of
from jaxsrc.analysis.subject import Rows, Subject, values
from jaxsrc.modules.taps import Taps
from jaxsrc.protocol import PyTree


@dataclass(frozen=True)
class Lens:
    """Of the stream before each block and after the last: share of asked tokens that are right, mean log-probability of the
    right one, and the log-probabilities of the rows [stages, b, n]."""

    stages: list[str]
    right: Float[np.ndarray, "s"]
    likelihood: Float[np.ndarray, "s"]
    tokens: Float[np.ndarray, "s b n"]


def lens(subject: Subject, params: PyTree, rows: Rows) -> Lens:
    """Read every residual stream with the final norm and the embedding (nostalgebraist 2020)."""

    @jax.jit
    def look(params: PyTree, rows: Rows) -> tuple[Array, Array]:
        def one(x: Array) -> tuple[Array, Array]:
            logits = jax.nn.log_softmax(subject.read(params, x, Taps()))
            picked = jnp.take_along_axis(logits, rows.labels[..., None], -1)[..., 0]
            return picked, logits.argmax(-1) == rows.labels

        x = subject.embed(params, rows)
        found = [one(x)]
        for i in range(len(subject.names)):
            x = subject.block(params, i, x, rows, Taps())
            found.append(one(x))
        return jnp.stack([f[0] for f in found]), jnp.stack([f[1] for f in found])

    picked, right = map(np.asarray, look(params, rows))
    asked = np.asarray(rows.asked)
    return Lens(["embedding", *subject.names], right[:, asked].mean(1), picked[:, asked].mean(1), picked)


def contributions(
    subject: Subject, params: PyTree, rows: Rows
) -> tuple[list[str], Float[Array, "parts b n"], Float[Array, "b n"]]:
    """Parts (embedding, heads, feed-forward blocks, biases of norm and attention), what each adds to the right label's logit
    less the mean logit, and that difference itself; the parts add up to it, since the final norm's scale is held at its value."""
    heads, out = taps_of(subject)

    @jax.jit
    def split(params: PyTree, rows: Rows) -> tuple[Array, Array]:
        whole_attention = [h.removesuffix("heads") + "out" for h in heads]
        taps = Taps(keep=[*heads, *out, *whole_attention])
        start = subject.embed(params, rows)
        last = subject.onward(params, 0, start, rows, taps)
        d, constant = subject.direction(params, last, rows.labels)
        parts = [(start * d).sum(-1)]
        for i in range(len(subject.names)):
            added = subject.outputs(params, i, taps.kept[heads[i]])
            constant = constant + ((taps.kept[whole_attention[i]] - added.sum(2)) * d).sum(-1)  # a bias, where there is one
            parts += list(jnp.moveaxis(jnp.einsum("bnhw,bnw->bnh", added, d), -1, 0))
            parts.append((taps.kept[out[i]] * d).sum(-1))
        logits = subject.read(params, last, Taps())
        whole = jnp.take_along_axis(logits, rows.labels[..., None], -1)[..., 0] - logits.mean(-1)
        return jnp.stack([*parts, constant]), whole

    parts, whole = split(params, rows)
    return ["embedding", *subject.units, "biases"], parts, whole


def attribution(subject: Subject, params: PyTree, rows: Rows) -> tuple[list[list], float]:
    """Ranked lines (part, mean, standard deviation over the tokens asked for), and the largest error of the sum."""
    names, parts, whole = contributions(subject, params, rows)
    asked = np.asarray(rows.asked)
    found = np.asarray(parts)[:, asked]
    error = float(np.abs(found.sum(0) - np.asarray(whole)[asked]).max())
    order = np.argsort(-np.abs(found.mean(1)))
    return [[names[i], float(found[i].mean()), float(found[i].std())] for i in order], error


def patterns(subject: Subject, params: PyTree, rows: Rows) -> dict[str, Float[np.ndarray, "b h n n"]]:
    """Attention of every block."""
    names = [f"{n}.attention.pattern" for n in subject.names]
    return {n.removesuffix(".attention.pattern"): np.asarray(v) for n, v in values(subject, params, rows, names).items()}
