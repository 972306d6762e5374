"""What an analysis needs of a transformer: rows with right answers, and the forward pass in pieces that can be cut and edited."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jaxsrc.data.expression_text import PAD, pad
from jaxsrc.data.expressions import Expression
from jaxsrc.depth_data import answer_row, prompt_row, vocabulary
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformer
from jaxsrc.modules.attention import causal_mask
from jaxsrc.modules.taps import NONE, Taps
from jaxsrc.protocol import Leaf, PyTree
from jaxsrc.rewriting import locate_labels, locate_row


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

    heads, dim: of every attention; outputs: (params, block, heads [b, n, h, d]) -> what each head adds to the residual stream
    [b, n, h, w]; direction: (params, last residual stream, labels) -> d [b, n, w] and constant [b, n] so that the label's logit
    less the mean logit is x . d + constant, the final norm's scale held fixed.
    """

    names: tuple[str, ...]
    heads: int
    dim: int
    embed: Callable[[PyTree, Rows], Array]
    block: Callable[[PyTree, int, Array, Rows, Taps], Array]
    read: Callable[[PyTree, Array, Taps], Array]
    outputs: Callable[[PyTree, int, Array], Array]
    direction: Callable[[PyTree, Array, Array], tuple[Array, Array]]

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


def blocks_of(graph: Any, model: Any) -> Subject:
    """The subject of a `DepthTransformer`, or of any module with the same `embed`, `theta`, `read`, `names` and `layers`.

    graph: its graph definition; model: the module itself, abstract or not.
    """
    attention = model.layers[0].attention

    def block(params: PyTree, i: int, x: Array, rows: Rows, taps: Taps) -> Array:
        model = nnx.merge(graph, params)
        n = rows.tokens.shape[1]
        mask = causal_mask(n)[None] | (jnp.arange(n)[None, None] < rows.prefix[:, None, None])
        layer, name = model.layers[i % len(model.layers)], names[i]
        return layer(x, mask=mask, theta=model.theta(jnp.arange(n)), taps=taps, name=name)[0]

    def outputs(params: PyTree, i: int, heads: Array) -> Array:
        layers = nnx.merge(graph, params).layers
        kernel = layers[i % len(layers)].attention.o.kernel[...]
        return jnp.einsum("bnhd,hdw->bnhw", heads, kernel.reshape(attention.heads, attention.dim, -1))

    def direction(params: PyTree, x: Array, labels: Array) -> tuple[Array, Array]:
        model = nnx.merge(graph, params)
        table = model.embedding.embedding[...]
        towards = table[labels] - table.mean(0)
        scale = jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5)
        d = towards * model.norm.scale[...] * scale
        return d - d.mean(-1, keepdims=True), (towards * model.norm.bias[...]).sum(-1)

    names = tuple(model.names())
    return Subject(
        names,
        attention.heads,
        attention.dim,
        lambda params, rows: nnx.merge(graph, params).embed(rows.tokens),
        block,
        lambda params, x, taps: nnx.merge(graph, params).read(x, taps),
        outputs,
        direction,
    )


def depth_subject(experiment: DepthExperiment) -> Subject:
    c = experiment.config.model
    return blocks_of(experiment.graph, nnx.eval_shape(lambda: DepthTransformer(c, experiment.size, nnx.Rngs(0))))


def depth_rows(experiment: DepthExperiment, items: Sequence[Expression]) -> Rows:
    """Right answers of the direct and steps tracks; the right marks of the rewrite track."""
    track = experiment.config.track
    if track == "rewrite":
        tokens = [locate_row(e.text) for e in items]
        labels = [locate_labels(e.text) for e in items]
        length = max(map(len, tokens))
        asked = pad(tokens, length) != PAD
        prefix = np.array([len(t) for t in tokens], np.int32)
        return Rows(
            jnp.asarray(pad(tokens, length), jnp.int32),
            jnp.asarray(pad(labels, length), jnp.int32),
            jnp.asarray(asked),
            jnp.asarray(prefix),
        )
    prompts = [prompt_row(track, e.text) for e in items]
    whole = [p + answer_row(track, e, experiment.config.data.reverse) for p, e in zip(prompts, items, strict=True)]
    length = max(map(len, whole))
    table = pad(whole, length).astype(np.int32)
    begin = np.array([len(p) - 1 for p in prompts])
    asked = (table[:, 1:] != PAD) & (np.arange(length - 1) >= begin[:, None])
    return Rows(jnp.asarray(table[:, :-1]), jnp.asarray(table[:, 1:]), jnp.asarray(asked), jnp.zeros(len(items), jnp.int32))


def characters(experiment: DepthExperiment, tokens: Int[np.ndarray, "n"]) -> list[str]:
    """What each token of a row is, for pictures."""
    known = vocabulary(experiment.config.track).characters
    return [("PAD", "BOS", "EOS", "?")[t] if t < 4 else known[t - 4] for t in tokens.tolist()]
