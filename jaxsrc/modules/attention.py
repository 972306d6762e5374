"""Multi-head self-attention with taps, rotary positions, grouped keys, dropout and a cache for generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxsrc.modules import rotary
from jaxsrc.modules.dropout import dropout
from jaxsrc.modules.linear import Linear, side_by_side
from jaxsrc.modules.taps import NONE, Taps

Kind = Literal["softmax", "nearest"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Cache:
    """Keys and values [b, length, kv heads, d] of the positions seen so far; `filled` of them, int32[]."""

    keys: Array
    values: Array
    filled: Array


def empty_cache(batch: int, length: int, heads: int, dim: int, dtype: DTypeLike = jnp.float32) -> Cache:
    zeros = jnp.zeros((batch, length, heads, dim), dtype)
    return Cache(zeros, zeros, jnp.int32(0))


def causal_mask(n: int) -> Bool[Array, "n n"]:
    """True where query i may see key j: j <= i."""
    return jnp.tril(jnp.ones((n, n), bool))


def weights(
    q: Float[Array, "b n h d"], k: Float[Array, "b m h d"], mask: Bool[Array, "*x n m"] | None
) -> Float[Array, "b h n m"]:
    """softmax(q k^T / sqrt(d)) in float32; masked entries are exactly zero as long as a row keeps one entry."""
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask if mask.ndim == 2 else mask[:, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, -1)


def nearest(
    q: Float[Array, "b n h d"],
    k: Float[Array, "b m h d"],
    mask: Bool[Array, "*x n m"] | None,
    at: Int[Array, "b n"] | None = None,
) -> Float[Array, "b h n m"]:
    """Attention to the nearest key that matches: even heads look to the left, odd ones to the right.

    w_ij = p_ij prod_{k between i and j} (1 - p_ik), p = sigmoid(q k^T / sqrt(d)) where seen, 0 elsewhere and at i itself; a row
    adds up to 1 at most. What lies beyond the match has no say, so that a rule learned on short texts holds in long ones
    (geometric attention, Csordas et al. 2022, arXiv:2110.07732, here with one direction a head). at: places of the queries
    among the keys, in order where None.
    """
    scores = jnp.einsum("bnhd,bmhd->bhnm", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    left = (jnp.arange(q.shape[2]) % 2 == 0)[:, None, None]
    here = (jnp.arange(q.shape[1])[None] if at is None else at)[:, None, :, None]
    there = jnp.arange(k.shape[1])
    seen = jnp.where(left, there < here, there > here)
    if mask is not None:
        seen = seen & (mask[None, None] if mask.ndim == 2 else mask[:, None])
    missed = jnp.where(seen, jax.nn.log_sigmoid(-scores), 0.0)
    up_to = jnp.cumsum(missed, -1)
    between = jnp.where(left, up_to[..., -1:] - up_to, up_to - missed)
    return jnp.where(seen, jnp.exp(jax.nn.log_sigmoid(scores) + between), 0.0)


def attend(
    q: Float[Array, "b n h d"], k: Float[Array, "b m h d"], v: Float[Array, "b m h d"], mask: Bool[Array, "*x n m"] | None
) -> Float[Array, "b n h d"]:
    """softmax(q k^T / sqrt(d)) v, heads beside the batch: on a CPU a fifth faster than `jax.nn.dot_product_attention`."""
    b, n, h, d = q.shape
    rows = lambda x: x.transpose(0, 2, 1, 3).reshape(b * h, -1, d)
    scores = jnp.matmul(rows(q), rows(k).transpose(0, 2, 1), preferred_element_type=jnp.float32) * d**-0.5
    if mask is not None:
        whole = mask if mask.ndim == 2 else jnp.repeat(mask, h, 0)
        scores = jnp.where(whole, scores, jnp.finfo(jnp.float32).min)
    pattern = jax.nn.softmax(scores, -1).astype(v.dtype)
    return jnp.matmul(pattern, rows(v)).reshape(b, h, n, d).transpose(0, 2, 1, 3)


def at_positions(x: Shaped[Array, "b n d"], only: Int[Array, "b k"]) -> Shaped[Array, "b k d"]:
    """Rows of x at some positions of each item of the batch."""
    return jnp.take_along_axis(x, only[..., None], 1)


class Attention(nnx.Module):
    """Self-attention of `heads` heads; taps NAME.pattern [b, h, n, m], NAME.heads [b, n, h, d], NAME.out [b, n, width].

    kv_heads below heads share keys and values in groups (GQA, arXiv:2305.13245).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        kv_heads: int | None = None,
        bias: bool = False,
        std: float | None = None,
        dropout: float = 0.0,
    ):
        self.heads, self.kv_heads, self.dim, self.rate = heads, kv_heads or heads, width // heads, dropout
        init = nnx.initializers.lecun_normal() if std is None else nnx.initializers.normal(std)
        linear = lambda i, o: Linear(i, o, use_bias=bias, rngs=rngs, kernel_init=init)
        inner, outer = heads * self.dim, self.kv_heads * self.dim
        self.q, self.k, self.v = linear(width, inner), linear(width, outer), linear(width, outer)
        self.o = linear(inner, width)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        mask: Bool[Array, "*x n m"] | None = None,
        theta: Array | None = None,
        cache: Cache | None = None,
        key: Array | None = None,
        only: Int[Array, "b k"] | None = None,
        kind: Kind = "softmax",
        taps: Taps = NONE,
        name: str = "attention",
    ) -> tuple[Float[Array, "b _ d"], Cache | None]:
        """Output and the cache with this call's keys and values in it.

        mask: True where a query may look; with a cache, over its whole length; theta: rotary angles of the positions; only:
        positions whose output is wanted, [b, k, d] then: the others are looked at and no more; kind: nearest as in `nearest`,
        over all positions of one text.
        """
        b, n, _ = x.shape
        part = lambda y, h: y.reshape(b, -1, h, self.dim)
        if only is None:
            q, k, v = side_by_side((self.q, self.k, self.v), x)
        else:
            q, (k, v) = self.q(at_positions(x, only)), side_by_side((self.k, self.v), x)
        q, k, v = part(q, self.heads), part(k, self.kv_heads), part(v, self.kv_heads)
        if theta is not None:
            q, k = rotary.rotate(q, theta if only is None else theta[only]), rotary.rotate(k, theta)
        if only is not None and mask is not None:
            mask = at_positions(jnp.broadcast_to(mask, (b, n, mask.shape[-1])), only)
        if cache is not None:
            at = (0, cache.filled, 0, 0)
            k = jax.lax.dynamic_update_slice(cache.keys, k.astype(cache.keys.dtype), at)
            v = jax.lax.dynamic_update_slice(cache.values, v.astype(cache.values.dtype), at)
            cache = Cache(k, v, cache.filled + n)
            seen = jnp.arange(k.shape[1])[None] <= (cache.filled - n + jnp.arange(n))[:, None]
            mask = seen if mask is None else mask & seen
        groups = self.heads // self.kv_heads
        if groups > 1:
            k, v = jnp.repeat(k, groups, 2), jnp.repeat(v, groups, 2)
        if kind == "nearest":
            pattern = taps(f"{name}.pattern", nearest(q, k, mask, only))
            out = jnp.einsum("bhnm,bmhd->bnhd", dropout(pattern, self.rate, key).astype(v.dtype), v)
        elif taps.wants(f"{name}.pattern") or (key is not None and self.rate > 0):
            pattern = taps(f"{name}.pattern", weights(q, k, mask))
            pattern = dropout(pattern, self.rate, key).astype(v.dtype)
            out = jnp.einsum("bhnm,bmhd->bnhd", pattern, v)
        else:
            taps.skip(f"{name}.pattern")
            out = attend(q, k, v, mask)
        out = taps(f"{name}.heads", out)
        return taps(f"{name}.out", self.o(out.reshape(*out.shape[:2], -1))), cache
