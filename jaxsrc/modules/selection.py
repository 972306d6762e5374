"""Active samples moved together into a fixed number of places, so that one compiled step serves any number of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Selection(NamedTuple):
    """places: which candidate lies in each place; filled: 1 for a sample, 0 for padding; active: samples that were drawn;
    overflow: those of them that found no place; empty: 1 where none was drawn."""

    places: Int[Array, "p"]
    filled: Float[Array, "p"]
    active: Float[Array, ""]
    overflow: Float[Array, ""]
    empty: Float[Array, ""]


def compact(active: Bool[Array, "c"], scores: Float[Array, "c"], capacity: int) -> Selection:
    """The `capacity` active samples with the largest scores (positive), then padding: candidate 0 with weight 0."""
    values, places = jax.lax.top_k(jnp.where(active, scores, -1.0), capacity)
    filled = (values >= 0).astype(jnp.float32)
    drawn = active.sum(dtype=jnp.float32)
    places = jnp.where(values >= 0, places, 0)
    return Selection(places, filled, drawn, jnp.maximum(drawn - capacity, 0), (drawn == 0).astype(jnp.float32))


def everything(count: int) -> Selection:
    """All of `count` candidates, none left out."""
    zero = jnp.float32(0)
    return Selection(jnp.arange(count), jnp.ones(count), jnp.float32(count), zero, zero)


def unbiased_weights(
    inclusion: Float[Array, "p"], filled: Float[Array, "p"], candidates: int, clip: int | float
) -> Float[Array, "p"]:
    """Weights w with E[sum_i w_i g_i over the drawn] = mean of g over the candidates: 1 / (c p_i) (Horvitz & Thompson 1952).

    clip: the largest weight, in multiples of 1 / p_i at equal chances; above it the estimate is biased and steadier.
    """
    weights = filled / (candidates * jnp.maximum(inclusion, 1e-12))
    return jnp.minimum(weights, clip / jnp.maximum(filled.sum(), 1))


def effective_size(weights: Float[Array, "p"]) -> Float[Array, ""]:
    """(sum w)^2 / sum w^2: how many equally weighted samples would have this variance (Kish 1965)."""
    return jnp.square(weights.sum()) / jnp.maximum(jnp.square(weights).sum(), 1e-20)
