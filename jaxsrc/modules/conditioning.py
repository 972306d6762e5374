"""What a language model's hidden states become before a grid decoder sees them: a pooled vector, cells, or latents."""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxsrc.modules.linear import Linear
from jaxsrc.modules.norm import rms_norm
from jaxsrc.modules.recursive_block import LECUN, CrossAttention, SwiGLU


class Projection(nnx.Module):
    """tanh(gate) W rms(h): massive channels of a raw residual stream are tamed first; the gate starts at zero."""

    def __init__(self, features: int, width: int, rngs: nnx.Rngs):
        self.kernel = Linear(features, width, use_bias=False, rngs=rngs, kernel_init=LECUN)
        self.gate = nnx.Param(jnp.zeros(()))

    def __call__(self, hidden: Float[Array, "*b f"]) -> Float[Array, "*b d"]:
        return jnp.tanh(self.gate[...]).astype(hidden.dtype) * self.kernel(rms_norm(hidden))


def mean_of(hidden: Float[Array, "b t f"], mask: Bool[Array, "b t"]) -> Float[Array, "b f"]:
    """The mean over the tokens that count, in float32; zero where none does."""
    weight = mask[..., None].astype(jnp.float32)
    total = (hidden.astype(jnp.float32) * weight).sum(1) / jnp.maximum(weight.sum(1), 1)
    return total.astype(hidden.dtype)


def cells_of(hidden: Float[Array, "b t f"], index: Int[Array, "b s"]) -> Float[Array, "b s f"]:
    """The hidden state of each cell's token; zero where the cell has none (index -1)."""
    found = jnp.take_along_axis(hidden, jnp.maximum(index, 0)[..., None], 1)
    return jnp.where((index >= 0)[..., None], found, 0)


class Resampler(nnx.Module):
    """Learned latents [m, d] that read the tokens once: l <- l + cross(l, W rms(h)); l <- l + swiglu(rms(l)); rms at the end."""

    def __init__(self, features: int, width: int, heads: int, hidden: int, latents: int, rngs: nnx.Rngs):
        self.project = Linear(features, width, use_bias=False, rngs=rngs, kernel_init=LECUN)
        self.latents = nnx.Param(nnx.initializers.truncated_normal(1.0)(rngs.params(), (latents, width)))
        self.cross = CrossAttention(width, heads, rngs)
        self.mlp = SwiGLU(width, hidden, rngs)

    def __call__(self, hidden: Float[Array, "b t f"], mask: Bool[Array, "b t"]) -> Float[Array, "b m d"]:
        tokens = rms_norm(self.project(rms_norm(hidden)))
        start = jnp.broadcast_to(self.latents[...].astype(hidden.dtype), (hidden.shape[0], *self.latents[...].shape))
        x = start + self.cross(rms_norm(start), tokens, mask)
        return rms_norm(x + self.mlp(rms_norm(x)))
