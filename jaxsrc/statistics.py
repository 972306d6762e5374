"""Paired tests, corrections for many of them, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float
from scipy.stats import binom, rankdata


def mcnemar(first: Bool[np.ndarray, "n"], second: Bool[np.ndarray, "n"]) -> float:
    """Exact two-sided p value that two ways of answering the same items are equally often right (McNemar 1947).

    With b items right only in the first and c only in the second: min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2).
    """
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return 1.0 if b + c == 0 else float(min(1.0, 2 * binom.cdf(min(b, c), b + c, 0.5)))


def sign_flip(differences: Float[np.ndarray, "n"], draws: int = 10_000, seed: int = 0) -> float:
    """Two-sided p value that paired differences are symmetric about zero: their mean against random signs.

    p = (1 + draws at least as extreme) / (1 + draws), so it is never zero.
    """
    values = np.asarray(differences, np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    rng = np.random.default_rng(seed)
    extreme, wanted = 0, abs(values.sum()) * (1 - 1e-12)
    for begin in range(0, draws, 1000):
        signs = rng.integers(0, 2, (min(1000, draws - begin), len(values)), np.int8) * 2 - 1
        extreme += int((np.abs(signs @ values) >= wanted).sum())
    return (1 + extreme) / (1 + draws)


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number, in the order given (Holm 1979): max over smaller ones of (m - rank) p, at most 1."""
    order = np.argsort(p, kind="stable")
    running, out = 0.0, [0.0] * len(p)
    for rank, at in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[at]))
        out[int(at)] = running
    return out


def bootstrap(values: Float[np.ndarray, "n"], draws: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of a mean, values drawn again with replacement."""
    rng = np.random.default_rng(seed)
    means = np.asarray(values, np.float64)[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def rank_correlation(x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """Spearman's rho, ties at their mean rank; 0 where one side does not vary."""
    a, b = rankdata(x), rankdata(y)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
