"""A small decoder for arithmetic: pre-norm blocks, rotary positions, tied head; the layers may be repeated, weights shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from jaxsrc.data.expression_text import FIRST_DIGIT
from jaxsrc.errors import UserError
from jaxsrc.modules import rotary
from jaxsrc.modules.attention import Attention, Cache, Kind, causal_mask, empty_cache
from jaxsrc.modules.block import Block, layer_norm
from jaxsrc.modules.dropout import dropout, split
from jaxsrc.modules.gated_feedforward import GateConfig, feedforward
from jaxsrc.modules.taps import NONE, Taps

STD = 0.02


@dataclass(frozen=True, kw_only=True)
class DepthTransformerConfig:
    """length: most tokens of a text; loops: times that all layers are gone through, with the same weights; positions: none
    leaves order to the causal mask; places: digits of a number that are told their place in it (arXiv:2405.17399), 0
    for none; gate: gated units of `hidden` features for feed-forward networks, none for plain ones with GELU; marking: how
    characters that see each other both ways attend, see `Attention`."""

    width: Annotated[int, Field(ge=2)] = 128
    layers: Annotated[int, Field(ge=1)] = 4
    heads: Annotated[int, Field(ge=1)] = 4
    hidden: Annotated[int, Field(ge=1)] = 384
    length: Annotated[int, Field(ge=4)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    loops: Annotated[int, Field(ge=1)] = 1
    positions: Literal["rotary", "none"] = "rotary"
    places: Annotated[int, Field(ge=0)] = 0
    gate: GateConfig | None = None
    marking: Kind = "softmax"


def places_of(tokens: Int[Array, "b n"], most: int) -> Int[Array, "b n"]:
    """1 for the first digit of a run of digits, 2 for the next, ... at most `most`; 0 for everything else."""
    at = jnp.arange(tokens.shape[1])
    other = jax.lax.cummax(jnp.where(is_digit(tokens), -1, at), axis=1)
    return jnp.minimum(at - other, most)


def is_digit(tokens: Int[Array, "*b"]) -> Bool[Array, "*b"]:
    return (tokens >= FIRST_DIGIT) & (tokens < FIRST_DIGIT + 10)


class DepthTransformer(nnx.Module):
    """Token numbers to logits of the next token.

    Taps embedding [b, n, width]; layerI.* of `Block` (loopJ.layerI.* where layers are repeated); final [b, n, width]; logits.
    """

    def __init__(self, config: DepthTransformerConfig, vocabulary: int, rngs: nnx.Rngs):
        c = config
        if c.width % (2 * c.heads):
            raise UserError(f"expected a width that twice the {c.heads} heads divide, got {c.width}; change width or heads")
        self.config = c
        init = nnx.initializers.normal(STD)
        self.embedding = nnx.Embed(vocabulary, c.width, embedding_init=init, rngs=rngs)
        if c.places:
            self.place = nnx.Embed(c.places + 1, c.width, embedding_init=init, rngs=rngs)
        make = lambda: Block(
            c.width,
            Attention(c.width, c.heads, rngs, std=STD, dropout=c.dropout),
            feedforward(c.gate, c.width, c.hidden, rngs, std=STD, dropout=c.dropout),
            rngs,
            dropout=c.dropout,
        )
        self.layers = nnx.List([make() for _ in range(c.layers)])
        self.norm = layer_norm(c.width, rngs)

    def names(self, loops: int | None = None) -> list[str]:
        """Names of the blocks in the order that they are gone through."""
        loops = loops or self.config.loops
        numbered = [f"layer{i}" for i in range(self.config.layers)]
        return numbered if loops == 1 else [f"loop{j}.{name}" for j in range(loops) for name in numbered]

    def caches(self, batch: int, length: int, loops: int | None = None) -> list[Cache]:
        """An empty cache for every block that is gone through."""
        c = self.config
        return [empty_cache(batch, length, c.heads, c.width // c.heads) for _ in self.names(loops)]

    def embed(
        self, tokens: Int[Array, "b n"], places: Int[Array, "b n"] | None = None, key: Array | None = None
    ) -> Float[Array, "b n d"]:
        """The residual stream before the first block."""
        x = self.embedding(tokens)
        if self.config.places:
            x = x + self.place(places_of(tokens, self.config.places) if places is None else places)
        return dropout(x, self.config.dropout, key)

    def theta(self, positions: Int[Array, "*b n"]) -> Float[Array, "*b n d2"] | None:
        """Rotary angles of positions."""
        c = self.config
        return rotary.angles(positions, c.width // c.heads) if c.positions == "rotary" else None

    def read(self, x: Float[Array, "b n d"], taps: Taps = NONE) -> Float[Array, "b n v"]:
        """Logits of the last residual stream, float32: final norm, then the embedding once more."""
        x = taps("final", self.norm(x))
        return taps("logits", (x @ self.embedding.embedding[...].T).astype(jnp.float32))

    def __call__(
        self,
        tokens: Int[Array, "b n"],
        *,
        prefix: Int[Array, "b"] | None = None,
        mask: Bool[Array, "b n m"] | None = None,
        positions: Int[Array, "*c n"] | None = None,
        places: Int[Array, "b n"] | None = None,
        caches: list[Cache] | None = None,
        loops: int | None = None,
        key: Array | None = None,
        taps: Taps = NONE,
    ) -> tuple[Float[Array, "b n v"], list[Cache]]:
        """Logits, and the caches after this call.

        prefix: tokens at the start of a row that see each other both ways, as the configuration's marking says; mask: instead of
        the causal one, over the caches' length where there are caches; loops: other than the configuration's; key: of dropout,
        None for none.
        """
        n = tokens.shape[1]
        names = self.names(loops)
        first, *keys = split(key, len(names) + 1)
        kind: Kind = "softmax" if prefix is None else self.config.marking
        theta = self.theta(jnp.arange(n) if positions is None else positions)
        if mask is None and caches is None:
            mask = causal_mask(n)
            if prefix is not None:
                mask = mask[None] | (jnp.arange(n)[None, None] < prefix[:, None, None])
        x = taps("embedding", self.embed(tokens, places, first))
        after: list[Cache] = []
        for i, name in enumerate(names):
            cache = None if caches is None else caches[i]
            layer = self.layers[i % self.config.layers]
            x, cache = layer(x, mask=mask, theta=theta, cache=cache, key=keys[i], kind=kind, taps=taps, name=name)
            after += [] if cache is None else [cache]
        return self.read(x, taps), after
