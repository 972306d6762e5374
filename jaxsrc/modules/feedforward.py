"""The two-layer feed-forward network of a transformer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
from flax import nnx
from jaxtyping import Array, Float

from jaxsrc.modules.dropout import dropout, split
from jaxsrc.modules.linear import Linear
from jaxsrc.modules.taps import NONE, Taps

Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]
ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


class FeedForward(nnx.Module):
    """down(activation(up(x))); taps NAME.hidden [b, n, hidden] and NAME.out [b, n, width].

    std, out_std: of the normal initial weights of up and down, out_std as std where None; LeCun's where both are.
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        rngs: nnx.Rngs,
        *,
        activation: Activation = "gelu",
        bias: bool = True,
        std: float | None = None,
        out_std: float | None = None,
        dropout: float = 0.0,
    ):
        init = lambda std: nnx.initializers.lecun_normal() if std is None else nnx.initializers.normal(std)
        self.activation: Activation = activation
        self.rate = dropout
        self.up = Linear(width, hidden, use_bias=bias, rngs=rngs, kernel_init=init(std))
        self.down = Linear(hidden, width, use_bias=bias, rngs=rngs, kernel_init=init(std if out_std is None else out_std))

    def __call__(
        self, x: Float[Array, "b n d"], *, key: Array | None = None, taps: Taps = NONE, name: str = "feedforward"
    ) -> Float[Array, "b n d"]:
        inner, outer = split(key, 2)
        hidden = taps(f"{name}.hidden", ACTIVATIONS[self.activation](self.up(x)))
        return taps(f"{name}.out", dropout(self.down(dropout(hidden, self.rate, inner)), self.rate, outer))
