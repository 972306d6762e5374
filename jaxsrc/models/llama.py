"""LLaMA 2, 3, 3.1 and 3.2 for reading: hidden states of a chosen layer, logits, generation with a cache."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxsrc.errors import UserError
from jaxsrc.models.llama_config import LlamaConfig
from jaxsrc.modules import rotary
from jaxsrc.modules.attention import Cache, attend, empty_cache
from jaxsrc.modules.norm import rms_norm
from jaxsrc.modules.quantized import dense, product
from jaxsrc.modules.rotary_scaling import frequencies

Weights = dict[str, Any]
CHUNK = 512  # queries that look at once, so that scores stay small in a long prompt


def names(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor of the model and its shape, matrices [out, in] as Hugging Face keeps them: nothing is transposed."""
    c = config
    q, kv = c.heads * c.head_dim, c.kv_heads * c.head_dim
    found: dict[str, tuple[int, ...]] = {"embed": (c.vocabulary, c.width)}
    parts = {"q": (q, c.width), "k": (kv, c.width), "v": (kv, c.width), "o": (c.width, q)}
    mlp = {"gate": (c.inner, c.width), "up": (c.inner, c.width), "down": (c.width, c.inner)}
    for i in range(c.layers):
        at = f"layers.{i}."
        found |= {f"{at}{n}": s for n, s in (parts | mlp).items()}
        found |= {f"{at}norm_attention": (c.width,), f"{at}norm_mlp": (c.width,)}
        biased = (parts if c.attention_bias else {}) | (mlp if c.mlp_bias else {})
        found |= {f"{at}{n}_bias": s[:1] for n, s in biased.items()}
    found["norm"] = (c.width,)
    if not c.tied:
        found["head"] = (c.vocabulary, c.width)
    return found


def _linear(x: Array, layer: Weights, name: str) -> Array:
    y = product(x, layer[name])
    bias = layer.get(f"{name}_bias")
    return y if bias is None else y + bias.astype(y.dtype)


def _norm(x: Array, weight: Array, epsilon: float) -> Array:
    """In float32, rounded to the stream's type before the weight: the order that LLaMA was trained with."""
    return rms_norm(x, epsilon=epsilon) * weight.astype(x.dtype)


def _attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Queries in pieces of CHUNK; mask: [n, m] or [b, n, m]."""
    n = q.shape[1]
    if n <= CHUNK or n % CHUNK:
        return attend(q, k, v, mask)
    parts = n // CHUNK
    cut = lambda x, axis: jnp.moveaxis(x.reshape(*x.shape[:axis], parts, CHUNK, *x.shape[axis + 1 :]), axis, 0)
    out = jax.lax.map(lambda p: attend(p[0], k, v, p[1]), (cut(q, 1), cut(mask, mask.ndim - 2)))
    return jnp.moveaxis(out, 0, 1).reshape(q.shape)


@partial(jax.jit, static_argnums=0)
def block(
    config: LlamaConfig,
    layer: Weights,
    x: Float[Array, "b n d"],
    theta: Float[Array, "*c n r"],
    mask: Bool[Array, "*e n m"],
    cache: Cache | None,
) -> tuple[Float[Array, "b n d"], Cache | None]:
    """One layer: x + attention(norm(x)), then x + down(silu(gate) up)(norm(x)); jitted once for all layers."""
    c = config
    b, n, _ = x.shape
    part = lambda y, h: y.reshape(b, n, h, c.head_dim)
    y = _norm(x, layer["norm_attention"], c.epsilon)
    q, k = (rotary.rotate(part(_linear(y, layer, p), h), theta) for p, h in (("q", c.heads), ("k", c.kv_heads)))
    v = part(_linear(y, layer, "v"), c.kv_heads)
    if cache is not None:
        at = (0, cache.filled, 0, 0)
        k = jax.lax.dynamic_update_slice(cache.keys, k.astype(cache.keys.dtype), at)
        v = jax.lax.dynamic_update_slice(cache.values, v.astype(cache.values.dtype), at)
        cache = Cache(k, v, cache.filled + n)
    groups = c.heads // c.kv_heads  # query head h looks at key head h // groups
    wide = lambda y: jnp.repeat(y, groups, 2).astype(x.dtype)
    heads = _attend(q, wide(k), wide(v), mask)
    x = x + _linear(heads.reshape(b, n, -1), layer, "o")
    y = _norm(x, layer["norm_mlp"], c.epsilon)
    return x + _linear(jax.nn.silu(_linear(y, layer, "gate")) * _linear(y, layer, "up"), layer, "down"), cache


class Llama:
    """weights: {embed, layers: [...], norm, head unless tied}; dtype: of the computation."""

    def __init__(self, config: LlamaConfig, weights: Weights, dtype: Any = jnp.float32):
        self.config, self.weights, self.dtype = config, weights, dtype
        self.frequencies = jnp.asarray(frequencies(config.head_dim, config.theta, config.scaling))

    def _start(self, tokens: Int[Array, "b n"], positions: Int[Array, "*b n"]) -> tuple[Array, Array]:
        table = self.weights["embed"]
        rows = table[tokens] if isinstance(table, jax.Array) else dense(table, self.dtype)[tokens]
        return rows.astype(self.dtype), positions[..., None].astype(jnp.float32) * self.frequencies

    def hidden(
        self, tokens: Int[Array, "b n"], layer: int = -1, padding: Bool[Array, "b n"] | None = None
    ) -> Float[Array, "b n d"]:
        """The residual stream after `layer` blocks (0: the embeddings), or after all and the norm for -1.

        Blocks above the layer and the output head are not computed. padding: True where a token is none, on either side;
        positions count real tokens. Errors: UserError for a layer that the model does not have.
        """
        count = self.config.layers
        if not -1 <= layer <= count:
            raise UserError(f"experiment.features.layer: expected -1 to {count}, got {layer}; the model has {count} layers")
        n = tokens.shape[1]
        seen = jnp.tril(jnp.ones((n, n), bool))
        positions: Array = jnp.arange(n)
        if padding is not None:
            seen = seen & ~padding[:, None] | jnp.eye(n, dtype=bool)
            positions = jnp.maximum(jnp.cumsum(~padding, 1) - 1, 0)
        x, theta = self._start(tokens, positions)
        for weights in self.weights["layers"][: count if layer == -1 else layer]:
            x, _ = block(self.config, weights, x, theta, seen, None)
        return _norm(x, self.weights["norm"], self.config.epsilon) if layer == -1 else x

    def _head(self, x: Array) -> Array:
        return product(x, self.weights["embed" if self.config.tied else "head"])

    def logits(self, tokens: Int[Array, "b n"], padding: Bool[Array, "b n"] | None = None) -> Float[Array, "b n v"]:
        return self._head(self.hidden(tokens, padding=padding))

    def generate(self, prompt: Int[Array, "n"], steps: int, end: int | None = None) -> list[int]:
        """The likeliest tokens after a prompt, one at a time on a cache; stops at `end`."""
        n, c = len(prompt), self.config
        room = n + steps
        caches = [empty_cache(1, room, c.kv_heads, c.head_dim, self.dtype) for _ in range(c.layers)]
        tokens, at, found = jnp.asarray(prompt)[None], 0, []
        for _ in range(steps):
            width = tokens.shape[1]
            positions = at + jnp.arange(width)
            seen = jnp.arange(room)[None] <= positions[:, None]
            x, theta = self._start(tokens, positions)
            for i, weights in enumerate(self.weights["layers"]):
                x, caches[i] = block(c, weights, x, theta, seen, caches[i])  # type: ignore[assignment]
            last = self._head(_norm(x[:, -1:], self.weights["norm"], c.epsilon))
            token = int(np.asarray(last[0, 0].argmax()))
            found.append(token)
            if token == end:
                break
            tokens, at = jnp.full((1, 1), token, jnp.int32), at + width
        return found


def assemble(flat: dict[str, Any]) -> Weights:
    """Tensors by name (see `names`) as the model takes them."""
    top = {k: v for k, v in flat.items() if not k.startswith("layers.")}
    layers: dict[int, Weights] = {}
    for name, value in flat.items():
        if name.startswith("layers."):
            _, index, part = name.split(".")
            layers.setdefault(int(index), {})[part] = value
    return {**top, "layers": [layers[i] for i in sorted(layers)]}
