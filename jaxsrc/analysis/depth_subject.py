"""The depth transformer as a subject of analysis: its pieces, its rows, its characters, its matched pairs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int

from jaxsrc.analysis.probing import Characters, chosen_characters
from jaxsrc.analysis.subject import Rows, Subject, blocks_of
from jaxsrc.data.expression_text import PAD, pad
from jaxsrc.data.expressions import Expression, expression
from jaxsrc.depth_data import answer_row, prompt_row, vocabulary
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformer
from jaxsrc.modules.attention import Kind
from jaxsrc.rewriting import locate_labels, locate_row


def transformer_subject(graph: Any, model: DepthTransformer, kind: Kind = "softmax") -> Subject:
    """graph: of a depth transformer; model: the module itself, abstract or not; kind: of attention."""
    return blocks_of(
        graph,
        model,
        model.names(),
        blocks=lambda m: m.layers,
        embed=lambda m, tokens: m.embed(tokens),
        read=lambda m, x, taps: m.read(x, taps),
        table=lambda m: m.embedding.embedding[...],
        theta=lambda m, n: m.theta(jnp.arange(n)),
        kind=kind,
    )


def depth_subject(experiment: DepthExperiment) -> Subject:
    c = experiment.config.model
    model = nnx.eval_shape(lambda: DepthTransformer(c, experiment.size, nnx.Rngs(0)))
    return transformer_subject(experiment.graph, model, c.marking if experiment.config.track == "rewrite" else "softmax")


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


def characters_of(experiment: DepthExperiment, items: Sequence[Expression], binary: bool, classes: int) -> Characters:
    """Characters of expressions as the model reads them; digits of a number share a depth, so their order does not matter."""
    rows = depth_rows(experiment, items)
    where = np.zeros(rows.tokens.shape, bool)
    for i, item in enumerate(items):
        where[i, 1 : len(item.text) + 1] = True
    labels = np.array([int(d > 0) if binary else d for item in items for d in item.depth])
    return chosen_characters(rows, where, labels, classes)


def matched(items: Sequence[Expression], count: int, seed: int = 0) -> list[tuple[Expression, Expression]]:
    """Pairs of expressions of one shape (the same characters but for one digit or operator): of the commonest shape.

    Errors: UserError where fewer than two share a shape.
    """
    rng = random.Random(seed)
    shape = lambda e: "".join("d" if c.isdigit() else "o" if c in "+-*" else c for c in e.text)
    by_shape: dict[str, list[Expression]] = {}
    for item in items:
        by_shape.setdefault(shape(item), []).append(item)
    common = max(by_shape.values(), key=len)
    if len(common) < 2:
        raise UserError("expected at least two expressions of one shape, got none; analyse more items (--items)")
    places = [i for i, c in enumerate(common[0].text) if c.isdigit() or c in "+-*"]
    at = rng.choice([i for i in places if not common[0].text[i].isdigit()] or places)  # one place for all pairs
    pairs = []
    for item in common[:count]:
        others = "+-*" if item.text[at] in "+-*" else "123456789"
        other = rng.choice([c for c in others if c != item.text[at]])
        pairs.append((item, expression(item.text[:at] + other + item.text[at + 1 :])))
    return pairs
