"""One transformer block: attention and feed-forward, each with its norm and residual connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxsrc.modules.attention import Attention, Cache, Kind, at_positions
from jaxsrc.modules.dropout import dropout, split
from jaxsrc.modules.taps import NONE, Taps

Norm = Callable[[Array], Array]


def layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm with scale and bias, epsilon 1e-5, the variance from centred values."""
    return nnx.LayerNorm(width, epsilon=1e-5, use_fast_variance=False, rngs=rngs)


class Block(nnx.Module):
    """pre: x + f(norm(x)); post: norm(x + f(x)), as in Vaswani et al. 2017.

    Taps NAME.input, NAME.middle (after attention) and NAME.output [b, n, width], and those of its parts.
    """

    def __init__(
        self,
        width: int,
        attention: Attention,
        feedforward: nnx.Module,
        rngs: nnx.Rngs,
        *,
        norm: Literal["pre", "post"] = "pre",
        make_norm: Callable[[int, nnx.Rngs], nnx.Module] = layer_norm,
        dropout: float = 0.0,
    ):
        self.order, self.rate = norm, dropout
        self.attention, self.feedforward = attention, feedforward
        self.norm_attention, self.norm_feedforward = make_norm(width, rngs), make_norm(width, rngs)

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        mask: Bool[Array, "*x n m"] | None = None,
        theta: Array | None = None,
        cache: Cache | None = None,
        key: Array | None = None,
        gating: Any = None,
        only: Int[Array, "b k"] | None = None,
        kind: Kind = "softmax",
        taps: Taps = NONE,
        name: str = "block",
    ) -> tuple[Float[Array, "b _ d"], Cache | None]:
        """Output and the cache after this call, see `Attention`, also for `only` and `kind`; gating: handed to a feed-forward
        network that takes it."""
        inside, after, within = split(key, 3)
        x, cache = self.attend(
            x, mask=mask, theta=theta, cache=cache, keys=(inside, after), only=only, kind=kind, taps=taps, name=name
        )
        return self.feed(x, key=within, gating=gating, taps=taps, name=name), cache

    def attend(
        self,
        x: Float[Array, "b n d"],
        *,
        mask: Bool[Array, "*x n m"] | None = None,
        theta: Array | None = None,
        cache: Cache | None = None,
        keys: tuple[Array | None, Array | None] = (None, None),
        only: Int[Array, "b k"] | None = None,
        kind: Kind = "softmax",
        taps: Taps = NONE,
        name: str = "block",
    ) -> tuple[Float[Array, "b _ d"], Cache | None]:
        """The first half of the block: the stream after attention."""
        first: Norm = self.norm_attention  # type: ignore[assignment]
        x = taps(f"{name}.input", x)
        y = first(x) if self.order == "pre" else x
        y, cache = self.attention(
            y, mask=mask, theta=theta, cache=cache, key=keys[0], only=only, kind=kind, taps=taps, name=f"{name}.attention"
        )
        x = (x if only is None else at_positions(x, only)) + dropout(y, self.rate, keys[1])
        return taps(f"{name}.middle", x if self.order == "pre" else first(x)), cache

    def feed(
        self, x: Float[Array, "b n d"], *, key: Array | None = None, gating: Any = None, taps: Taps = NONE, name: str = "block"
    ) -> Float[Array, "b n d"]:
        """The second half: from the stream after attention to the block's output."""
        second: Norm = self.norm_feedforward  # type: ignore[assignment]
        y = second(x) if self.order == "pre" else x
        more = {} if gating is None else {"gating": gating}
        x = x + self.feedforward(y, key=key, taps=taps, name=f"{name}.feedforward", **more)  # type: ignore[operator]
        return taps(f"{name}.output", x if self.order == "pre" else second(x))
