"""Colours of cells from extended values: constant colours, colours copied from a source, or the better of both.

The values extended from the demonstrations are indicators: for each colour, whether the cell has it; for each source,
whether the source has the cell's colour. A source's indicator does not change when colours are permuted, so what is
learned of it in one demonstration holds in another with other colours (naturality in the colours).
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Mode = Literal["constant", "copy", "both"]
MODES: tuple[Mode, ...] = ("constant", "copy", "both")
COLORS = 10
ABSENT = -9.0  # score of a colour that no source offers
SHARPNESS = 8.0  # inverse temperature of the scores, in units of an indicator


def indicators(colors: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Values to extend, float32[n, 10 + s]: colours int[n], sources int[n, s]."""
    constant = np.eye(COLORS, dtype=np.float32)[colors]
    return np.concatenate([constant, (sources == colors[:, None]).astype(np.float32)], 1)


def color_scores(
    values: Float[Array, "... n k"], sources: Int[Array, "... n s"]
) -> tuple[Float[Array, "... n 10"], Float[Array, "... n 10"], Float[Array, "... n 10"]]:
    """Score of every colour in the three modes: max over the sources that offer the colour of their values.

    A loop over the sources keeps the working set at [..., 10, n]: six times as fast on a CPU as one masked maximum.
    """
    constant = values[..., :COLORS]
    offer = jnp.moveaxis(values[..., COLORS:], -1, 0)[..., None, :]  # [s, ..., 1, n]
    color = jnp.moveaxis(sources, -1, 0)[..., None, :]

    def best(score: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
        value, shown = one
        return jnp.maximum(score, jnp.where(shown == jnp.arange(COLORS)[:, None], value, ABSENT)), None

    start = jnp.full((*values.shape[:-2], COLORS, values.shape[-2]), ABSENT, values.dtype)
    copied = jnp.swapaxes(jax.lax.scan(best, start, (offer, color))[0], -1, -2)
    return constant, copied, jnp.maximum(constant, copied)


def decode(values: np.ndarray, sources: np.ndarray, mode: Mode) -> np.ndarray:
    """Best colours uint8[n] in one mode, on the host: `color_scores` for arrays of any length without a compile."""
    scores = np.full((len(values), COLORS + 1), ABSENT, np.float32)
    if mode != "copy":
        scores[:, :COLORS] = values[:, :COLORS]
    if mode != "constant":
        rows = np.arange(len(values))
        for value, shown in zip(values[:, COLORS:].T, sources.T, strict=True):
            scores[rows, shown] = np.maximum(scores[rows, shown], value)
    return scores[:, :COLORS].argmax(-1).astype(np.uint8)
