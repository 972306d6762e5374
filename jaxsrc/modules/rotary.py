"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864), the half-split layout of GPT-NeoX and LLaMA."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def angles(positions: Int[Array, "*b n"], dim: int, base: float = 10_000.0) -> Float[Array, "*b n d2"]:
    """positions * base^(-2i / dim) for i in 0..dim/2 - 1, float32; `dim` is the (even) width of a head."""
    frequency = base ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    return positions[..., None].astype(jnp.float32) * frequency


def rotate(x: Float[Array, "*b n h d"], theta: Float[Array, "*c n d2"]) -> Float[Array, "*b n h d"]:
    """Turn feature pairs (i, i + d/2) of every head by theta, in float32: q.k then depends on positions' difference alone."""
    cos, sin = jnp.cos(theta)[..., None, :], jnp.sin(theta)[..., None, :]
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x.dtype)
