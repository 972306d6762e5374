"""A GPT-2-class decoder whose feed-forward networks are gated units: pre-norm blocks, learned positions, tied embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int
from pydantic import Field

from jaxsrc.errors import UserError
from jaxsrc.modules.attention import Attention, Cache, causal_mask, empty_cache
from jaxsrc.modules.block import Block, layer_norm
from jaxsrc.modules.dropout import dropout, split
from jaxsrc.modules.gated_feedforward import AnyUnit, GateConfig, feedforward, matched_hidden
from jaxsrc.modules.gated_units import AlphaConfig, Gating, GatingKinds
from jaxsrc.modules.linear import Linear
from jaxsrc.modules.taps import NONE, Taps

STD = 0.02  # of the initial weights, as in GPT-2


@dataclass(frozen=True, kw_only=True)
class GatedLMConfig:
    """length: most tokens of a window; hidden: features of the unit, 0 for as many as make the network cost what a plain
    one of 4 * width does; unit: 'mlp' is the plain network with GELU; gate_norm: LayerNorm on the activated gate."""

    kind: Literal["gated_lm"] = "gated_lm"
    vocabulary: Annotated[int, Field(ge=2)] = 256
    length: Annotated[int, Field(ge=1)] = 256
    width: Annotated[int, Field(ge=2)] = 384
    layers: Annotated[int, Field(ge=1)] = 6
    heads: Annotated[int, Field(ge=1)] = 6
    hidden: Annotated[int, Field(ge=0)] = 0
    unit: AnyUnit | Literal["mlp"] = "paGLU"
    alpha: AlphaConfig = field(default_factory=AlphaConfig)
    gate_norm: bool = False
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @property
    def gate(self) -> GateConfig | None:
        """The gated units of the feed-forward networks; None for the plain ones."""
        return None if self.unit == "mlp" else GateConfig(unit=self.unit, alpha=self.alpha, gate_norm=self.gate_norm)

    @property
    def features(self) -> int:
        """Hidden features of the feed-forward networks."""
        return self.hidden or (matched_hidden(self.width, self.gate.unit) if self.gate else 4 * self.width)

    def gating(self, progress: Array | float = 1.0) -> Gating | None:
        """The data of the configured unit and alpha; None for the plain network."""
        return self.gate.gating(progress) if self.gate else None

    def check(self) -> None:
        """UserError for sizes that do not fit each other, and for an alpha that cannot be."""
        if self.width % self.heads:
            raise UserError(f"experiment.model.heads: expected a divisor of width {self.width}, got {self.heads}; change one")
        self.gating()


class GatedLM(nnx.Module):
    """Tokens [b, n] -> logits [b, n, vocabulary] in float32; taps embed, block{i}.*, norm, logits.

    kinds: what the `Gating` of a call may choose from; by default what the configuration says.
    """

    def __init__(self, config: GatedLMConfig, rngs: nnx.Rngs, kinds: GatingKinds | None = None):
        config.check()
        self.config, self.kinds = config, kinds or (config.gate.kinds if config.gate else GatingKinds())
        d, normal = config.width, nnx.initializers.normal
        self.tokens = nnx.Embed(config.vocabulary, d, rngs=rngs, embedding_init=normal(STD))
        self.positions = nnx.Embed(config.length, d, rngs=rngs, embedding_init=normal(STD / 2))
        out = STD / (2 * config.layers) ** 0.5  # 2 * layers terms are added to the residual stream
        self.blocks = nnx.List([self._block(rngs, out) for _ in range(config.layers)])
        self.norm = layer_norm(d, rngs)

    def _block(self, rngs: nnx.Rngs, out: float) -> Block:
        c = self.config
        attention = Attention(c.width, c.heads, rngs, bias=True, std=STD, dropout=c.dropout)
        attention.o = Linear(c.width, c.width, rngs=rngs, kernel_init=nnx.initializers.normal(out))
        feed = feedforward(c.gate, c.width, c.features, rngs, kinds=self.kinds, std=STD, out_std=out, dropout=c.dropout)
        return Block(c.width, attention, feed, rngs, dropout=c.dropout)

    def __call__(
        self,
        tokens: Int[Array, "b n"],
        *,
        gating: Gating | None = None,
        cache: list[Cache] | None = None,
        key: Array | None = None,
        taps: Taps = NONE,
    ) -> Float[Array, "b n v"]:
        """Logits of the next token after each position; gating: the unit and alpha to use, as configured where None."""
        return self.extend(tokens, gating=gating, cache=cache, key=key, taps=taps)[0]

    def extend(
        self,
        tokens: Int[Array, "b n"],
        *,
        gating: Gating | None = None,
        cache: list[Cache] | None = None,
        key: Array | None = None,
        taps: Taps = NONE,
    ) -> tuple[Float[Array, "b n v"], list[Cache] | None]:
        """Logits, and the caches with these tokens in them; the positions go on from what the caches hold."""
        n = tokens.shape[1]
        if n > self.config.length:
            raise UserError(f"expected at most {self.config.length} tokens (the model's length), got {n}; cut the text")
        chosen = self.config.gating() if gating is None else gating
        first, *keys = split(key, self.config.layers + 1)
        at = jnp.arange(n) + (0 if cache is None else cache[0].filled)
        x = self.tokens(tokens) + self.positions(at)
        x = taps("embed", dropout(x, self.config.dropout, first))
        mask = causal_mask(n) if cache is None else None
        after = []
        for i, (block, k) in enumerate(zip(self.blocks, keys, strict=True)):
            kept = None if cache is None else cache[i]
            x, kept = block(x, mask=mask, cache=kept, key=k, gating=chosen, taps=taps, name=f"block{i}")
            after.append(kept)
        x = taps("norm", self.norm(x))
        # sums are float32 in half precision as well
        table = self.tokens.embedding[...].astype(x.dtype).T
        logits = jnp.matmul(x.reshape(-1, x.shape[-1]), table, preferred_element_type=jnp.float32).reshape(*x.shape[:2], -1)
        return taps("logits", logits), None if cache is None else after

    def empty(self, batch: int, dtype: jnp.dtype | None = None) -> list[Cache]:
        """Caches of the model's whole length with nothing in them."""
        c = self.config
        return [empty_cache(batch, c.length, c.heads, c.width // c.heads, dtype or jnp.float32) for _ in range(c.layers)]


def sample(logits: Float[Array, "b v"], key: Array, temperature: float, top_k: int) -> Int[Array, "b"]:
    """Draw a token of each row; temperature 0 takes the likeliest, top_k > 0 keeps that many."""
    if temperature == 0:
        return logits.argmax(-1)
    if top_k:
        least = jax.lax.top_k(logits, min(top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits / temperature)


def generate(
    model: GatedLM,
    prompt: Int[Array, "b n"],
    steps: int,
    key: Array,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    gating: Gating | None = None,
) -> Int[Array, "b m"]:
    """The prompt with `steps` tokens after it, one forward pass of one token each; traceable.

    Errors: UserError where prompt and steps exceed the model's length.
    """
    b, n = prompt.shape
    if n + steps > model.config.length:
        raise UserError(
            f"expected prompt and new tokens to fit in {model.config.length} positions, got {n} + {steps}; ask for fewer"
        )
    logits, cache = model.extend(prompt, gating=gating, cache=model.empty(b))
    graph, params = nnx.split(model)

    def step(carry: tuple[Array, list[Cache]], k: Array) -> tuple[tuple[Array, list[Cache]], Array]:
        last, kept = carry
        token = sample(last, k, temperature, top_k)
        logits, kept = nnx.merge(graph, params).extend(token[:, None], gating=gating, cache=kept)
        assert kept is not None
        return (logits[:, 0], kept), token

    assert cache is not None
    _, new = jax.lax.scan(step, (logits[:, -1], cache), jax.random.split(key, steps))
    return jnp.concatenate([prompt, new.T.astype(prompt.dtype)], 1)
