"""Dropout by key: no key, no dropout."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def dropout(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """x with each entry zeroed with probability `rate` and the others divided by 1 - rate; x itself where `key` is None."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


def split(key: Array | None, parts: int) -> list[Array | None]:
    """`parts` keys, or as many None."""
    return [None] * parts if key is None else list(jax.random.split(key, parts))
