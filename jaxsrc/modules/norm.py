"""Normalisation over the feature axis, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-5


def wide(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x in float32 at least, for sums, roots and solves."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rms_norm(
    x: Float[Array, "... d"], scale: Float[Array, "d"] | None = None, *, epsilon: float = EPSILON
) -> Float[Array, "... d"]:
    """x / sqrt(mean(x^2) + epsilon), times `scale` if given (Zhang & Sennrich 2019); zero rows stay zero."""
    y = wide(x)
    out = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + epsilon)
    return (out if scale is None else out * scale).astype(x.dtype)
