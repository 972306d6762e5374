"""Kan extensions enriched over the costs [0, infinity]: the largest and least 1-Lipschitz extensions of a function.

Lawvere metric spaces are categories enriched over ([0, inf], >=, +); for a map K of them and a function f,
(Lan_K f)(y) = min_k f(k) + d(K k, y) and (Ran_K f)(y) = max_k f(k) - d(y, K k) (Lawvere 1973; McShane 1934,
Whitney 1934).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def left(
    values: Float[Array, "n"], distance: Float[Array, "n m"], mask: Float[Array, "n"] | None = None
) -> Float[Array, "m"]:
    """min_k f(k) + d(k, y); infinity where no cell is known."""
    cost = values[:, None] + distance
    return jnp.min(cost if mask is None else jnp.where(mask[:, None] > 0, cost, jnp.inf), 0)


def right(
    values: Float[Array, "n"], distance: Float[Array, "m n"], mask: Float[Array, "n"] | None = None
) -> Float[Array, "m"]:
    """max_k f(k) - d(y, k); minus infinity where no cell is known."""
    gain = values[None] - distance
    return jnp.max(gain if mask is None else jnp.where(mask[None] > 0, gain, -jnp.inf), 1)


def soft_left(
    values: Float[Array, "n"],
    distance: Float[Array, "n m"],
    temperature: float | Float[Array, ""],
    mask: Float[Array, "n"] | None = None,
) -> Float[Array, "m"]:
    """-t log sum_k exp(-(f(k) + d(k, y)) / t): differentiable, tends to `left` from below as t goes to zero.

    Infinity where no cell is known.
    """
    cost = values[:, None] + distance
    known = jnp.ones(len(values), bool) if mask is None else mask > 0
    none = ~known.any()
    kept = jnp.where((known | none)[:, None], -cost / temperature, -jnp.inf)
    soft = -temperature * jax.nn.logsumexp(kept, 0)
    return jnp.where(none, jnp.inf, soft)
