"""The block of TRM: fused two-way attention or token mixing, SwiGLU, weightless norms after each (arXiv:2510.04871)."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxsrc.modules import rotary
from jaxsrc.modules.attention import attend
from jaxsrc.modules.linear import Linear
from jaxsrc.modules.norm import rms_norm

LECUN = nnx.initializers.lecun_normal()  # truncated at two sigma and corrected for it


def inner_width(width: int, expansion: float) -> int:
    """The next multiple of 256 from round(expansion * width * 2 / 3) on, as TRM takes it."""
    return -(-round(expansion * width * 2 / 3) // 256) * 256


class FusedAttention(nnx.Module):
    """Two-way attention; one kernel [width, 3 width] laid out as all query heads, all key heads, all value heads."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.qkv = Linear(width, 3 * width, use_bias=False, rngs=rngs, kernel_init=LECUN)
        self.o = Linear(width, width, use_bias=False, rngs=rngs, kernel_init=LECUN)

    def __call__(self, x: Float[Array, "b n d"], theta: Float[Array, "n r"] | None) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        q, k, v = jnp.split(self.qkv(x).reshape(b, n, 3 * self.heads, -1), 3, 2)
        if theta is not None:
            q, k = rotary.rotate(q, theta), rotary.rotate(k, theta)
        return self.o(attend(q, k, v, None).reshape(b, n, d))


class CrossAttention(nnx.Module):
    """Queries of x over the rows of `context`, which hold nothing of their positions; mask: rows that count."""

    def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.q, self.o = (Linear(width, width, use_bias=False, rngs=rngs, kernel_init=LECUN) for _ in range(2))
        self.kv = Linear(width, 2 * width, use_bias=False, rngs=rngs, kernel_init=LECUN)

    def __call__(
        self, x: Float[Array, "b n d"], context: Float[Array, "b m d"], mask: Array | None = None
    ) -> Float[Array, "b n d"]:
        b, n, d = x.shape
        part = lambda y: y.reshape(b, y.shape[1], -1, d // self.heads)
        k, v = jnp.split(part(self.kv(context)), 2, 2)
        seen = None if mask is None else jnp.broadcast_to(mask[:, None], (b, n, context.shape[1]))
        return self.o(attend(part(self.q(x)), k, v, seen).reshape(b, n, d))


class SwiGLU(nnx.Module):
    """down(silu(g) u), one kernel for g and u (g first)."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.gate_up = Linear(width, 2 * hidden, use_bias=False, rngs=rngs, kernel_init=LECUN)
        self.down = Linear(hidden, width, use_bias=False, rngs=rngs, kernel_init=LECUN)

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        gate, up = jnp.split(self.gate_up(x), 2, -1)
        return self.down(jax.nn.silu(gate) * up)


class RecursiveBlock(nnx.Module):
    """x <- rms(x + mix(x) [+ tanh(gate) cross(x, latents)]); x <- rms(x + swiglu(x)).

    The cross term sits in the sum of the first norm, so that a gate of zero is exactly the block without it. Token mixing
    (a SwiGLU over positions) normalises over positions, as its source does.
    """

    def __init__(
        self, width: int, heads: int, hidden: int, rngs: nnx.Rngs, *, mixer: Literal["attention", "tokens"], mixed: int,
        tokens: int, cross: bool,
    ):
        self.mixer: Literal["attention", "tokens"] = mixer
        if mixer == "attention":
            self.attention = FusedAttention(width, heads, rngs)
        else:
            self.mix = SwiGLU(tokens, mixed, rngs)
        self.mlp = SwiGLU(width, hidden, rngs)
        if cross:
            self.cross, self.gate = CrossAttention(width, heads, rngs), nnx.Param(jnp.zeros(()))

    def __call__(
        self, x: Float[Array, "b n d"], theta: Float[Array, "n r"] | None, latents: Float[Array, "b m d"] | None
    ) -> Float[Array, "b n d"]:
        more = 0 if latents is None else jnp.tanh(self.gate[...]).astype(x.dtype) * self.cross(x, latents)
        if self.mixer == "attention":
            x = rms_norm(x + self.attention(x, theta) + more)
        else:
            turned = (x + more).swapaxes(1, 2)
            x = rms_norm(turned + self.mix(x.swapaxes(1, 2))).swapaxes(1, 2)
        return rms_norm(x + self.mlp(x))
