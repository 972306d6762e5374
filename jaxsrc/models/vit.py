"""Vision transformer: square patches in, class logits out, and a head after an early layer where one is wanted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from jaxsrc.errors import UserError
from jaxsrc.modules.attention import Attention
from jaxsrc.modules.block import Block, layer_norm
from jaxsrc.modules.dropout import dropout, split
from jaxsrc.modules.feedforward import Activation, FeedForward
from jaxsrc.modules.linear import Linear
from jaxsrc.modules.taps import NONE, Taps

STD = 0.02


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """norm: before each part of a block, or after it as in the first transformers; pooling: what the head reads, a class
    token (arXiv:2010.11929) or the mean of the patches; registers: tokens without a place that blocks may write to
    (arXiv:2309.16588); exit_layer: blocks before the early head, 0 for none."""

    patch: Annotated[int, Field(ge=1)] = 4
    width: Annotated[int, Field(ge=1)] = 256
    layers: Annotated[int, Field(ge=1)] = 6
    heads: Annotated[int, Field(ge=1)] = 8
    hidden: Annotated[int, Field(ge=1)] = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    norm: Literal["pre", "post"] = "pre"
    activation: Activation = "gelu"
    pooling: Literal["class", "mean"] = "mean"
    registers: Annotated[int, Field(ge=0)] = 0
    exit_layer: Annotated[int, Field(ge=0)] = 0


def check(config: ViTConfig, side: int) -> None:
    """UserError where patches do not tile the picture, heads do not divide the width, or the exit lies too deep."""
    if side % config.patch:
        raise UserError(f"model.patch: expected a divisor of the pictures' {side} pixels, got {config.patch}; change it")
    if config.width % config.heads:
        raise UserError(f"model.heads: expected a divisor of the width {config.width}, got {config.heads}; change one of them")
    if config.exit_layer >= config.layers and config.exit_layer:
        raise UserError(f"model.exit_layer: expected below the {config.layers} layers, got {config.exit_layer}; lower it")


def patches(images: Float[Array, "b h w c"], size: int) -> Float[Array, "b n k"]:
    """Pictures cut into squares, row by row; k = size * size * c."""
    b, h, w, c = images.shape
    x = images.reshape(b, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, -1, size * size * c)


class Head(nnx.Module):
    """Norm and linear map of the pooled tokens, float32 out."""

    def __init__(self, width: int, classes: int, rngs: nnx.Rngs):
        self.norm = layer_norm(width, rngs)
        self.out = Linear(width, classes, kernel_init=nnx.initializers.normal(STD), rngs=rngs)

    def __call__(self, x: Float[Array, "b d"]) -> Float[Array, "b k"]:
        return self.out(self.norm(x)).astype(jnp.float32)


class ViT(nnx.Module):
    """Class logits of pictures.

    Taps embedding [b, n, width]; layerI.* of `Block`; pooled [b, width]; logits [b, classes]. Tokens: the class token if
    there is one, the registers, the patches.
    """

    def __init__(self, config: ViTConfig, side: int, channels: int, classes: int, rngs: nnx.Rngs):
        c = config
        check(c, side)
        self.config = c
        init = nnx.initializers.normal(STD)
        self.embed = Linear(c.patch**2 * channels, c.width, rngs=rngs)
        self.first = c.registers + (c.pooling == "class")  # tokens before the patches
        if self.first:
            self.extra = nnx.Param(init(rngs.params(), (self.first, c.width)))
        self.positions = nnx.Param(init(rngs.params(), (self.first + (side // c.patch) ** 2, c.width)))
        make = lambda: Block(
            c.width,
            Attention(c.width, c.heads, rngs, bias=True, dropout=c.dropout),
            FeedForward(c.width, c.hidden, rngs, activation=c.activation, dropout=c.dropout),
            rngs,
            norm=c.norm,
            dropout=c.dropout,
        )
        self.layers = nnx.List([make() for _ in range(c.layers)])
        self.head = Head(c.width, classes, rngs)
        if c.exit_layer:
            self.exit = Head(c.width, classes, rngs)

    def pool(self, x: Float[Array, "b n d"]) -> Float[Array, "b d"]:
        return x[:, 0] if self.config.pooling == "class" else x[:, self.first :].mean(1)

    def tokens(
        self, images: Float[Array, "b h w c"], key: Array | None = None, taps: Taps = NONE
    ) -> Float[Array, "b n d"]:
        """The residual stream before the first block."""
        x = self.embed(patches(images, self.config.patch))
        if self.first:
            extra = jnp.broadcast_to(self.extra[...].astype(x.dtype), (len(x), self.first, x.shape[-1]))
            x = jnp.concatenate([extra, x], 1)
        x = x + self.positions[...].astype(x.dtype)
        return taps("embedding", dropout(x, self.config.dropout, key))

    def early(self, images: Float[Array, "b h w c"]) -> Float[Array, "b k"]:
        """Logits of the early head; only the blocks below it are computed."""
        x = self.tokens(images)
        for i in range(self.config.exit_layer):
            x, _ = self.layers[i](x)
        return self.exit(self.pool(x))

    def __call__(
        self, images: Float[Array, "b h w c"], *, key: Array | None = None, taps: Taps = NONE
    ) -> tuple[Float[Array, "b k"], Float[Array, "b k"] | None]:
        """Logits, and those of the early head if there is one; key: of dropout, None for none."""
        first, *keys = split(key, self.config.layers + 1)
        x, early = self.tokens(images, first, taps), None
        for i, layer in enumerate(self.layers):
            x, _ = layer(x, key=keys[i], taps=taps, name=f"layer{i}")
            if i + 1 == self.config.exit_layer:
                early = self.exit(self.pool(x))
        return taps("logits", self.head(taps("pooled", self.pool(x)))), early
