"""Greedy decoding with a cache of keys and values, prompts of different lengths, one compiled program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from jaxsrc.data.expression_text import EOS, PAD
from jaxsrc.models.depth_transformer import DepthTransformer, is_digit, places_of
from jaxsrc.protocol import PyTree


def make_greedy(graph: Any, new: int, loops: int | None = None) -> Callable[[PyTree, Array, Array], Array]:
    """(params, prompts int[b, p] padded at the right, their lengths int[b]) -> int[b, new] tokens, PAD after EOS.

    The prompt is read in one pass; after that each token costs one pass over one position, and the program ends as soon as
    every row has ended. graph: of a `DepthTransformer`.
    """

    def greedy(params: PyTree, prompts: Int[Array, "b p"], lengths: Int[Array, "b"]) -> Int[Array, "b new"]:
        model: DepthTransformer = nnx.merge(graph, params)
        b, p = prompts.shape
        most = model.config.places
        at = jnp.arange(p + new)
        seen = (at[None] < lengths[:, None]) | (at[None] >= p)  # the padding between prompt and answer is never looked at
        mask = lambda n: jnp.broadcast_to(seen[:, None], (b, n, p + new))
        caches = model.caches(b, p + new, loops)
        logits, caches = model(prompts, mask=mask(p), positions=jnp.arange(p), caches=caches, loops=loops)
        last = lambda x: jnp.take_along_axis(x, (lengths - 1)[:, None], 1)[:, 0]
        token = jnp.take_along_axis(logits, (lengths - 1)[:, None, None], 1)[:, 0].argmax(-1).astype(jnp.int32)
        before = last(places_of(prompts, most))

        def going(state: tuple) -> Array:
            t, _, _, _, _, done = state
            return (t < new) & ~done.all()

        def one(state: tuple) -> tuple:
            t, token, place, caches, out, done = state
            out = out.at[:, t].set(jnp.where(done, PAD, token))
            done = done | (token == EOS)
            place = jnp.where(is_digit(token), jnp.minimum(place + 1, most), 0)
            logits, caches = model(
                token[:, None],
                mask=mask(1),
                positions=(lengths + t)[:, None],
                places=place[:, None],
                caches=caches,
                loops=loops,
            )
            return t + 1, logits[:, 0].argmax(-1).astype(jnp.int32), place, caches, out, done

        out = jnp.full((b, new), PAD, jnp.int32)
        state = (jnp.int32(0), token, before, caches, out, jnp.zeros(b, bool))
        return jax.lax.while_loop(going, one, state)[4]

    return jax.jit(greedy)
