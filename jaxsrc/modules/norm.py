"""Normalisation over the feature axis, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-5


def rms_norm(x: Float[Array, "... d"], scale: Float[Array, "d"] | None = None) -> Float[Array, "... d"]:
    """x / sqrt(mean(x^2) + epsilon), times `scale` if given (Zhang & Sennrich 2019); zero rows stay zero."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    out = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + EPSILON)
    return (out if scale is None else out * scale).astype(x.dtype)
