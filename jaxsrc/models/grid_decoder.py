"""TRM, the tiny recursive model (Jolicoeur-Martineau 2025, arXiv:2510.04871), with features of a language model as an option."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from jaxsrc.data.arc import MAX_SIDE
from jaxsrc.data.grid_tokens import VOCABULARY
from jaxsrc.errors import UserError
from jaxsrc.modules import rotary
from jaxsrc.modules.conditioning import Projection, Resampler, cells_of, mean_of
from jaxsrc.modules.linear import Linear
from jaxsrc.modules.recursive_block import LECUN, RecursiveBlock, inner_width
from jaxsrc.protocol import Leaf

Conditioning = Literal["none", "pooled", "aligned", "cross"]


@dataclass(frozen=True, kw_only=True)
class GridDecoderConfig:
    """side: of the canvas; slots: positions before the cells that hold the puzzle's embedding; layers: of the one network;
    h_cycles, l_cycles: updates of y and, within each, of z; halt_steps: most supervised steps a sample;
    explore: share of rows that must not halt early; positions: rope, learned or none; mixer: attention, or a SwiGLU over
    positions; inner: hidden width of the SwiGLU, 0 for TRM's rule; correction: the model's own last answer is an input;
    conditioning: how features of a language model (`features` numbers a token) enter; latents: of cross-attention;
    remat: recompute the cycles with a gradient instead of keeping them; unroll: no scans (larger, for comparison)."""

    side: Annotated[int, Field(ge=1, le=MAX_SIDE + 1)] = 30
    vocabulary: Annotated[int, Field(ge=2)] = VOCABULARY
    slots: Annotated[int, Field(ge=1)] = 16
    width: Annotated[int, Field(ge=2)] = 512
    heads: Annotated[int, Field(ge=1)] = 8
    layers: Annotated[int, Field(ge=1)] = 2
    expansion: Annotated[float, Field(gt=0)] = 4.0
    inner: Annotated[int, Field(ge=0)] = 0
    h_cycles: Annotated[int, Field(ge=1)] = 3
    l_cycles: Annotated[int, Field(ge=1)] = 4
    halt_steps: Annotated[int, Field(ge=1)] = 16
    explore: Annotated[float, Field(ge=0, le=1)] = 0.1
    positions: Literal["rope", "learned", "none"] = "rope"
    mixer: Literal["attention", "tokens"] = "attention"
    correction: bool = False
    conditioning: Conditioning = "none"
    features: Annotated[int, Field(ge=0)] = 0
    latents: Annotated[int, Field(ge=1)] = 64
    remat: bool = True
    unroll: bool = False

    @property
    def cells(self) -> int:
        return self.side * self.side

    @property
    def tokens(self) -> int:
        """Positions of the whole sequence."""
        return self.slots + self.cells

    def check(self) -> None:
        """UserError for sizes that do not fit each other."""
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise UserError(
                f"experiment.model.heads: expected a divisor of width {self.width} that leaves an even head, got {self.heads}; "
                "change one"
            )
        if self.conditioning != "none" and not self.features:
            raise UserError(
                f"experiment.model.features: expected the width of the language model for conditioning {self.conditioning}, "
                "got 0; set it, or conditioning: none"
            )


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Latents:
    """The two latents y [b, n, d] (z_H in the source) and z [b, n, d] (z_L)."""

    y: Leaf
    z: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Features:
    """Hidden states [b, t, f], the tokens that count [b, t], and each cell's token or -1 [b, s]."""

    hidden: Leaf
    mask: Leaf
    index: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Answer:
    """After one supervised step: latents (no gradient), logits [b, s, v] and the halting logit [b], both float32."""

    latents: Latents
    logits: Leaf
    halt: Leaf


class GridDecoder(nnx.Module):
    """tokens [b, s], puzzle rows [b, d], latents -> `Answer`.

    One step is h_cycles times (l_cycles times z = net(z + y + x), then y = net(y + z)); the last cycle alone has a
    gradient. x = sqrt(d) [puzzle slots | token embeddings].
    """

    def __init__(self, config: GridDecoderConfig, rngs: nnx.Rngs):
        config.check()
        c = self.config = config
        hidden, short = c.inner or inner_width(c.width, c.expansion), nnx.initializers.truncated_normal
        std = c.width**-0.5 / 0.87962566103423978  # as jax corrects a normal truncated at two sigma
        self.embed = nnx.Param(short(std)(rngs.params(), (c.vocabulary, c.width)))
        self.blocks = nnx.List(
            [
                RecursiveBlock(
                    *(c.width, c.heads, hidden, rngs),
                    mixer=c.mixer,
                    mixed=inner_width(c.tokens, c.expansion),
                    tokens=c.tokens,
                    cross=c.conditioning == "cross",
                )
                for _ in range(c.layers)
            ]
        )
        self.head = Linear(c.width, c.vocabulary, use_bias=False, rngs=rngs, kernel_init=LECUN)
        zeros = nnx.initializers.zeros_init()
        self.q = Linear(c.width, 2, rngs=rngs, kernel_init=zeros, bias_init=nnx.initializers.constant(-5.0))
        if c.positions == "learned":
            self.places = nnx.Param(short(std)(rngs.params(), (c.tokens, c.width)))
        if c.correction:
            self.own = nnx.Param(short(std)(rngs.params(), (c.vocabulary, c.width)))
            self.own_gate = nnx.Param(jnp.zeros(()))
        if c.conditioning in ("pooled", "aligned"):
            self.project = Projection(c.features, c.width, rngs)
        elif c.conditioning == "cross":
            self.resample = Resampler(c.features, c.width, c.heads, hidden, c.latents, rngs)

    def inputs(
        self,
        tokens: Int[Array, "b s"],
        puzzle: Float[Array, "b p"],
        features: Features | None,
        own: Int[Array, "b s"] | None,
    ) -> Float[Array, "b n d"]:
        """x, without what cross-attention adds later; own: the model's last answer, -1 where it has none."""
        c, dtype = self.config, self.embed[...].dtype
        table = lambda t, w: jax.nn.one_hot(t, c.vocabulary, dtype=dtype) @ w[...]  # -1 gives zero
        cells = table(tokens, self.embed)
        if own is not None and c.correction:
            cells = cells + jnp.tanh(self.own_gate[...]).astype(dtype) * table(own, self.own)
        room = c.slots * c.width - puzzle.shape[-1]
        slots = jnp.pad(puzzle.astype(dtype), ((0, 0), (0, room))).reshape(-1, c.slots, c.width)
        if features is not None and c.conditioning == "aligned":
            cells = cells + self.project(cells_of(features.hidden.astype(dtype), features.index))
        elif features is not None and c.conditioning == "pooled":
            slots = slots + self.project(mean_of(features.hidden.astype(dtype), features.mask))[:, None]
        x = jnp.concatenate([slots, cells], 1)
        if c.positions == "learned":
            x = 0.5**0.5 * (x + self.places[...].astype(dtype))
        return math.sqrt(c.width) * x

    def __call__(
        self,
        tokens: Int[Array, "b s"],
        puzzle: Float[Array, "b p"],
        latents: Latents,
        features: Features | None = None,
        own: Int[Array, "b s"] | None = None,
    ) -> Answer:
        c, dtype = self.config, self.embed[...].dtype
        x = self.inputs(tokens, puzzle, features, own)
        context = None
        if features is not None and c.conditioning == "cross":
            context = self.resample(features.hidden.astype(dtype), features.mask)
        end = self._recurse(x, context, Latents(latents.y.astype(dtype), latents.z.astype(dtype)))
        logits = self.head(end.y)[:, c.slots :].astype(jnp.float32)
        halt = self.q(end.y[:, 0]).astype(jnp.float32)[:, 0]
        return Answer(jax.lax.stop_gradient(end), logits, halt)

    def _recurse(self, x: Array, context: Array | None, start: Latents) -> Latents:
        c = self.config
        graph, params = nnx.split(self.blocks)
        theta = rotary.angles(jnp.arange(c.tokens), c.width // c.heads) if c.positions == "rope" else None

        def net(params: nnx.State, h: Array, inject: Array, context: Array | None) -> Array:
            h = h + inject
            for block in nnx.merge(graph, params):
                h = block(h, theta, context)
            return h

        def cycle(net: Callable, params: nnx.State, x: Array, context: Array | None, at: Latents) -> Latents:
            inject = at.y + x
            z, _ = jax.lax.scan(
                lambda z, _: (net(params, z, inject, context), None), at.z, None, c.l_cycles, unroll=c.unroll
            )
            return Latents(net(params, at.y, z, context), z)

        if c.h_cycles > 1:
            # what has no gradient is cut off before it is used, so that nothing of these cycles is kept
            still, fixed, calm, start = jax.lax.stop_gradient((params, x, context, start))
            start, _ = jax.lax.scan(
                lambda at, _: (cycle(net, still, fixed, calm, at), None), start, None, c.h_cycles - 1, unroll=c.unroll
            )
        start = jax.lax.stop_gradient(start)
        return cycle(jax.checkpoint(net) if c.remat else net, params, x, context, start)


def starts(config: GridDecoderConfig, key: Array) -> dict[str, Float[Array, "d"]]:
    """The fixed first values of y and z at every position: one random vector each, never trained."""
    short = nnx.initializers.truncated_normal(1 / 0.87962566103423978)
    first, second = jax.random.split(key)
    return {"y": short(first, (config.width,)), "z": short(second, (config.width,))}


def restart(at: Latents, halted: Bool[Array, "b"], start: dict[str, Array]) -> Latents:
    """The first values in rows that halted, the others as they are."""
    pick = lambda old, new: jnp.where(halted[:, None, None], new.astype(old.dtype), old)
    return Latents(pick(at.y, start["y"]), pick(at.z, start["z"]))
