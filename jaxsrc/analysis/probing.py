"""Is nesting depth in a model's states, more than in the text itself? Probes beside their controls, and what erasing does."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsrc.analysis.probe import look_up, probe_sites
from jaxsrc.analysis.subject import Rows, Subject, score, values
from jaxsrc.modules.taps import Taps
from jaxsrc.protocol import PyTree
from jaxsrc.statistics import bootstrap, mcnemar

COLUMNS = ("site", "accuracy", "95 %", "random model", "hashed labels", "selectivity", "deeper", "deeper, random model")


@dataclass(frozen=True)
class Characters:
    """Characters of some texts. where: which tokens they are; labels: depth, or whether it is above zero; of: index of the text;
    token, place: the character's number and position; hashed: a label that only its neighbourhood decides."""

    rows: Rows
    where: Bool[np.ndarray, "b n"]
    labels: Int[np.ndarray, "c"]
    of: Int[np.ndarray, "c"]
    token: Int[np.ndarray, "c"]
    place: Int[np.ndarray, "c"]
    hashed: Int[np.ndarray, "c"]


def chosen_characters(rows: Rows, where: Bool[np.ndarray, "b n"], labels: Int[np.ndarray, "c"], classes: int) -> Characters:
    """Characters at `where`, with as many labels in the order of the tokens; hashed: from the character and the two before it."""
    tokens = np.asarray(rows.tokens)
    of, place = np.nonzero(where)
    contexts = [",".join(map(str, tokens[i, max(j - 2, 0) : j + 1])) for i, j in zip(of, place, strict=True)]
    hashed = np.array([random.Random(context).randrange(classes) for context in contexts])
    return Characters(rows, where, labels, of, tokens[where], place, hashed)


def features(
    subject: Subject, params: PyTree, chars: Characters
) -> tuple[Float[np.ndarray, "s c w"], Float[np.ndarray, "h c d"]]:
    """Residual streams (embedding and after every block) and head outputs (all blocks) of the characters."""
    streams = ["embedding", *(f"{n}.output" for n in subject.names)]
    heads = [f"{n}.attention.heads" for n in subject.names]
    kept = values(subject, params, chars.rows, [*streams, *heads])
    pick = lambda v: np.asarray(v)[chars.where]
    split = [np.moveaxis(pick(kept[n]), 1, 0) for n in heads]
    return np.stack([pick(kept[n]) for n in streams]), np.concatenate(split)


def sites(subject: Subject) -> tuple[list[str], list[str]]:
    streams = ["embedding", *(f"{n} stream" for n in subject.names)]
    return streams, [f"{n}.head{h}" for n in subject.names for h in range(subject.heads)]


def by_expression(right: Float[np.ndarray, "c"], of: Int[np.ndarray, "c"]) -> tuple[float, float]:
    """95 % interval of a mean over characters, whole expressions drawn again: their characters are not independent."""
    total = np.bincount(of, right)
    count = np.bincount(of).astype(float)
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(total), (1000, len(total)))
    low, high = np.quantile(total[drawn].sum(1) / count[drawn].sum(1), [0.025, 0.975])
    return float(low), float(high)


def probe_depth(
    subject: Subject,
    params: PyTree,
    random_params: PyTree,
    sets: Sequence[Characters],
    *,
    classes: int,
    kind: str = "logistic",
) -> tuple[list[list], dict[str, float]]:
    """Lines of COLUMNS for every site, and accuracies of look-up controls (majority, token, token and position).

    sets: what the probes are fitted to, what they are tested on, and deeper texts.
    """
    a, b, c = sets
    labels = jnp.asarray(a.labels)

    def accuracies(params: PyTree) -> list[list[np.ndarray]]:
        """Of streams, then heads: rightness on test, on hashed labels, on deeper: each [sites, characters]."""
        parts = [features(subject, params, s) for s in sets]
        found = []
        for group in (0, 1):
            # to one scale: a random model's small numbers would otherwise only meet the penalty
            mean, scale = parts[0][group].mean(1, keepdims=True), parts[0][group].std(1, keepdims=True) + 1e-9
            x, y, z = (jnp.asarray((p[group] - mean) / scale) for p in parts)
            both = jnp.concatenate([y, z], 1)
            guess = np.asarray(probe_sites(x, labels, both, classes=classes, kind=kind)[0])
            hashed = np.asarray(probe_sites(x, jnp.asarray(a.hashed), both, classes=classes, kind=kind)[0])
            n = y.shape[1]
            found.append([guess[:, :n] == b.labels, hashed[:, :n] == b.hashed, guess[:, n:] == c.labels])
        return [list(np.concatenate(pair)) for pair in zip(*found, strict=True)]

    trained, untrained = accuracies(params), accuracies(random_params)
    percent = lambda x: f"{100 * float(np.mean(x)):.1f}"
    lines = []
    for i, name in enumerate([s for group in sites(subject) for s in group]):
        right, hashed, deep = (t[i] for t in trained)
        low, high = by_expression(right.astype(float), b.of)
        gap = percent(right.mean() - hashed.mean())
        interval = f"{100 * low:.1f} - {100 * high:.1f}"
        lines.append(
            [
                name,
                percent(right),
                interval,
                percent(untrained[0][i]),
                percent(hashed),
                gap,
                percent(deep),
                percent(untrained[2][i]),
            ]
        )
    return lines, {f"{n}: {k}": v for n, part in (("test", b), ("deeper", c)) for k, v in tables(a, part, classes).items()}


def tables(fitted: Characters, part: Characters, classes: int) -> dict[str, float]:
    """Accuracy on a part of what knows no model: the commonest label, a table of tokens, a table of tokens and positions."""
    keys = {
        "majority": lambda c: [0] * len(c.labels),
        "token": lambda c: c.token.tolist(),
        "token and position": lambda c: list(zip(c.token.tolist(), c.place.tolist(), strict=True)),
    }
    return {n: float((look_up(key(fitted), fitted.labels, key(part), classes) == part.labels).mean()) for n, key in keys.items()}


def projected(x: Array, basis: Float[Array, "d k"]) -> Array:
    """x without its components along an orthonormal basis."""
    return x - (x @ basis) @ basis.T


def erase(subject: Subject, params: PyTree, chars: Characters, rows: Rows, seed: int = 0) -> list[list]:
    """Lines (stream, answers right, without the probed directions, without as many random ones, p): does the model use them?

    The directions are those of the depth probe (ridge, one a depth) fitted to `chars` at that stream; all positions of `rows`
    lose them. p: McNemar between losing the probed and losing random directions.
    """
    classes = int(chars.labels.max()) + 1
    streams, _ = features(subject, params, chars)
    weights = np.asarray(
        probe_sites(jnp.asarray(streams), jnp.asarray(chars.labels), jnp.asarray(streams[:, :1]), classes=classes, kind="ridge")[
            1
        ]
    )

    @jax.jit
    def exact(params: PyTree, rows: Rows, bases: list[Array]) -> Array:
        names = ["embedding", *(f"{n}.output" for n in subject.names)]
        found = [score(subject.forward(params, rows), rows)[1]]
        for name, basis in zip(names, bases, strict=True):
            found.append(score(subject.forward(params, rows, Taps(edits={name: lambda v, b=basis: projected(v, b)})), rows)[1])
        return jnp.stack(found)

    basis = lambda w: jnp.asarray(np.linalg.svd(w, full_matrices=False)[0][:, : classes - 1])
    rng = np.random.default_rng(seed)
    probed = np.asarray(exact(params, rows, [basis(w) for w in weights]))
    other = np.asarray(exact(params, rows, [basis(rng.normal(size=w.shape).astype(np.float32)) for w in weights]))
    lines = []
    for i, name in enumerate(sites(subject)[0]):
        low, high = bootstrap(probed[i + 1].astype(float))
        share = lambda x: f"{100 * float(x.mean()):.1f}"
        lines.append(
            [
                name,
                share(probed[0]),
                f"{share(probed[i + 1])} ({100 * low:.1f} - {100 * high:.1f})",
                share(other[i + 1]),
                f"{mcnemar(probed[i + 1], other[i + 1]):.3g}",
            ]
        )
    return lines


ERASED = ("stream", "answers right, %", "without depth directions", "without random ones", "p")
