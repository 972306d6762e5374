"""What an analysis needs of a transformer: rows with right answers, and the forward pass in pieces that can be cut and edited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from jaxsrc.errors import UserError
from jaxsrc.modules.attention import Kind, causal_mask
from jaxsrc.modules.taps import NONE, Taps
from jaxsrc.protocol import Leaf, PyTree


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rows:
    """What a model reads, with the right answers. tokens, labels: int[b, n]; asked: bool[b, n], where a label counts;
    prefix: int[b], tokens that see each other both ways."""

    tokens: Leaf
    labels: Leaf
    asked: Leaf
    prefix: Leaf

    def take(self, at: Any) -> Rows:
        return jax.tree.map(lambda x: x[at], self)


@dataclass(frozen=True)
class Subject:
    """A transformer in pieces: `embed`, then `block` for each of `names`, then `read`; taps are named as the model names them.

    A block is pre-norm, in two halves: `attend` gives the stream after attention (at the positions `only` [b, k], where they are
    given), `feed` the stream after the feed-forward network. heads, dim: of every attention; outputs: (params, block, heads
    [b, n, h, d]) -> what each head adds to the residual stream [b, n, h, w]; direction: (params, last residual stream, labels)
    -> d [b, n, w] and constant [b, n] so that the label's logit less the mean logit is x . d + constant, the final norm's scale
    held fixed.
    """

    names: tuple[str, ...]
    heads: int
    dim: int
    embed: Callable[[PyTree, Rows], Array]
    attend: Callable[[PyTree, int, Array, Rows, Taps, Array | None], Array]
    feed: Callable[[PyTree, int, Array, Taps], Array]
    read: Callable[[PyTree, Array, Taps], Array]
    outputs: Callable[[PyTree, int, Array], Array]
    direction: Callable[[PyTree, Array, Array], tuple[Array, Array]]

    def block(self, params: PyTree, i: int, x: Array, rows: Rows, taps: Taps = NONE, only: Array | None = None) -> Array:
        """The stream after block i."""
        return self.feed(params, i, self.attend(params, i, x, rows, taps, only), taps)

    def forward(self, params: PyTree, rows: Rows, taps: Taps = NONE) -> Float[Array, "b n v"]:
        """Logits; the same as the model's own."""
        x = taps("embedding", self.embed(params, rows))
        return self.read(params, self.onward(params, 0, x, rows, taps), taps)

    def onward(self, params: PyTree, first: int, x: Array, rows: Rows, taps: Taps = NONE) -> Array:
        """Blocks from `first` on."""
        for i in range(first, len(self.names)):
            x = self.block(params, i, x, rows, taps)
        return x

    @property
    def units(self) -> list[str]:
        """Names of all heads and feed-forward blocks, in the order of the scans."""
        return [u for n in self.names for u in (*(f"{n}.head{h}" for h in range(self.heads)), f"{n}.feedforward")]

    def unit(self, layer: int, head: int | None) -> int:
        """Index in `units`; UserError for a head or layer that does not exist."""
        if not 0 <= layer < len(self.names):
            raise UserError(f"expected a layer from 0 to {len(self.names) - 1}, got {layer}; choose one of them")
        if head is not None and not 0 <= head < self.heads:
            raise UserError(f"expected a head from 0 to {self.heads - 1}, got {head}; choose one of them")
        return layer * (self.heads + 1) + (self.heads if head is None else head)


def score(logits: Float[Array, "b n v"], rows: Rows) -> tuple[Float[Array, "b"], Bool[Array, "b"]]:
    """Of each row: mean cross-entropy of the labels asked for, and whether all of them are the most likely ones.

    The latter is greedy exact match: greedy decoding follows the right answer until the first token where it is not.
    """
    asked = rows.asked.astype(jnp.float32)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), rows.labels[..., None], -1)[..., 0]
    exact = jnp.all((logits.argmax(-1) == rows.labels) | ~rows.asked, -1)
    return -(picked * asked).sum(-1) / jnp.maximum(asked.sum(-1), 1.0), exact


@lru_cache(16)
def _collector(subject: Subject, names: tuple[str, ...]) -> Callable[[PyTree, Rows], dict[str, Array]]:
    @jax.jit
    def collect(params: PyTree, rows: Rows) -> dict[str, Array]:
        taps = Taps(keep=names)
        subject.forward(params, rows, taps)
        taps.check()
        return taps.kept

    return collect


def values(subject: Subject, params: PyTree, rows: Rows, names: Sequence[str]) -> dict[str, Array]:
    """Named intermediate values of a forward pass; UserError for a name that the model does not have."""
    return _collector(subject, tuple(names))(params, rows)


def prefixed(rows: Rows) -> Bool[Array, "b n n"]:
    """Who sees whom: what came before, and all of the prefix within it."""
    n = rows.tokens.shape[1]
    return causal_mask(n)[None] | (jnp.arange(n)[None, None] < rows.prefix[:, None, None])


def blocks_of(
    graph: Any,
    model: Any,
    names: Sequence[str],
    *,
    blocks: Callable[[Any], Any],
    embed: Callable[[Any, Array], Array],
    read: Callable[[Any, Array, Taps], Array],
    table: Callable[[Any], Array],
    theta: Callable[[Any, int], Array | None] = lambda model, n: None,
    mask: Callable[[Rows], Array] = prefixed,
    gating: Callable[[], Any] = lambda: None,
    kind: Kind = "softmax",
) -> Subject:
    """The subject of a module that is a row of `Block`s between an embedding and a tied head.

    graph: its graph definition; model: the module itself, abstract or not; names: of the blocks as they are gone through,
    more than there are blocks where they are repeated; the rest takes the module: blocks: to them; embed: (module, tokens) ->
    stream; read: (module, stream, taps) -> logits; table: to the head's rows [v, w]; theta: (module, n) -> rotary angles; mask:
    rows -> who sees whom; gating: what the feed-forward networks are handed; kind: of attention.
    """
    attention = blocks(model)[0].attention
    names, count = tuple(names), len(blocks(model))
    layer = lambda params, i: blocks(nnx.merge(graph, params))[i % count]

    def attend(params: PyTree, i: int, x: Array, rows: Rows, taps: Taps, only: Array | None) -> Array:
        angles = theta(nnx.merge(graph, params), rows.tokens.shape[1])
        return layer(params, i).attend(x, mask=mask(rows), theta=angles, only=only, kind=kind, taps=taps, name=names[i])[0]

    def outputs(params: PyTree, i: int, heads: Array) -> Array:
        kernel = layer(params, i).attention.o.kernel[...]
        return jnp.einsum("bnhd,hdw->bnhw", heads, kernel.reshape(attention.heads, attention.dim, -1))

    def direction(params: PyTree, x: Array, labels: Array) -> tuple[Array, Array]:
        model = nnx.merge(graph, params)
        rows = table(model)
        towards = rows[labels] - rows.mean(0)
        scale = jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        d = towards * model.norm.scale[...] * scale
        return d - d.mean(-1, keepdims=True), (towards * model.norm.bias[...]).sum(-1)

    return Subject(
        names,
        attention.heads,
        attention.dim,
        lambda params, rows: embed(nnx.merge(graph, params), rows.tokens),
        attend,
        lambda params, i, x, taps: layer(params, i).feed(x, gating=gating(), taps=taps, name=names[i]),
        lambda params, x, taps: read(nnx.merge(graph, params), x, taps),
        outputs,
        direction,
    )
