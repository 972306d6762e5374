"""The gated language model as a subject of analysis: held-out windows of its text, the next byte, and how deep brackets nest."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from jaxsrc.analysis.material import Pairs, Scored
from jaxsrc.analysis.probing import Characters, chosen_characters
from jaxsrc.analysis.subject import Rows, Subject, blocks_of
from jaxsrc.errors import UserError
from jaxsrc.models.gated_lm import GatedLM
from jaxsrc.modules.attention import causal_mask
from jaxsrc.modules.taps import Taps
from jaxsrc.protocol import PyTree
from jaxsrc.text_experiment import TextExperiment

OPENING, CLOSING = b"([{", b")]}"
WINDOW = 64  # tokens that are looked at, or the model's length where it is less
DEEP = 3  # nesting that counts as deeper than what probes are fitted to


def nesting(tokens: Int[np.ndarray, "b n"]) -> Int[np.ndarray, "b n"]:
    """Brackets opened in the window and not closed yet, the closing one not counted; also those within strings. Never below 0."""
    level, found = np.zeros(len(tokens), np.int64), np.zeros(tokens.shape, np.int64)
    steps = np.isin(tokens, list(OPENING)).astype(np.int64) - np.isin(tokens, list(CLOSING))
    for j in range(tokens.shape[1]):
        level = np.maximum(level + steps[:, j], 0)
        found[:, j] = level
    return found


def text_subject(experiment: TextExperiment) -> Subject:
    """The model with the unit and alpha that it has at this point of its training."""
    config = experiment.config.model
    model = nnx.eval_shape(lambda: GatedLM(config, nnx.Rngs(0), experiment.kinds))

    def embed(m: GatedLM, tokens: Array) -> Array:
        return m.tokens(tokens) + m.positions(jnp.arange(tokens.shape[1]))

    def read(m: GatedLM, x: Array, taps: Taps) -> Array:
        return taps("logits", (taps("norm", m.norm(x)) @ m.tokens.embedding[...].T).astype(jnp.float32))

    return blocks_of(
        experiment.graph,
        model,
        [f"block{i}" for i in range(config.layers)],
        blocks=lambda m: m.blocks,
        embed=embed,
        read=read,
        table=lambda m: m.tokens.embedding[...],
        mask=lambda rows: causal_mask(rows.tokens.shape[1]),
        gating=lambda: experiment.gating(experiment.carry),
    )


class TextMaterial:
    """Held-out windows; the answer of a row is the byte after it."""

    def __init__(self, experiment: TextExperiment):
        if experiment.config.data.tokenizer:
            raise UserError("expected a model of bytes, so that brackets can be counted, got one with a tokenizer; use another")
        self.experiment = experiment
        self.subject = text_subject(experiment)
        self.length = min(WINDOW, experiment.config.model.length)

    def windows(self, length: int) -> Int[np.ndarray, "b n"]:
        """All whole windows of the validation part in an order that only the text decides, with the token after each."""
        tokens, weights = self.experiment.text.windows(length)
        whole = tokens[weights.all(1)]
        return whole[np.random.default_rng(0).permutation(len(whole))]

    def untrained(self) -> PyTree:
        return self.experiment.init(jax.random.key(10**6))[0]

    def rows(self, tokens: Int[np.ndarray, "b n"], asked: Sequence[int]) -> Rows:
        """asked: positions whose next token counts."""
        where = np.zeros(tokens[:, :-1].shape, bool)
        where[:, list(asked)] = True
        whole = jnp.asarray(tokens, jnp.int32)
        return Rows(whole[:, :-1], whole[:, 1:], jnp.asarray(where), jnp.zeros(len(tokens), jnp.int32))

    def scored(self, items: int) -> Scored:
        tokens = self.windows(self.length)[:items]
        return Scored(self.rows(tokens, [-1]), nesting(tokens)[:, -2] > 0, "windows")

    def probed(self, items: int, binary: bool) -> tuple[Sequence[Characters], int]:
        """Windows of less depth than DEEP, and others that reach it; of each one token in four."""
        tokens = self.windows(self.length)[:, :-1]
        depth = nesting(tokens)
        deepest = depth.max(1)
        flat, deep = np.flatnonzero((deepest > 0) & (deepest < DEEP)), np.flatnonzero(deepest >= DEEP)
        parts = flat[: 2 * items], flat[2 * items : 3 * items], deep[:items]
        if min(map(len, parts)) < 4:
            raise UserError(f"expected text with brackets nested {DEEP} deep, got too little of it; analyse a run on source code")
        classes = 2 if binary else int(depth[np.concatenate(parts)].max()) + 1
        found = []
        for part in parts:
            where = np.zeros(tokens[part].shape, bool)
            where[:, 3::4] = True
            labels = depth[part][where]
            rows = self.rows(np.pad(tokens[part], ((0, 0), (0, 1))), [])
            found.append(chosen_characters(rows, where, (labels > 0).astype(np.int64) if binary else labels, classes))
        return found, classes

    def pairs(self, items: int) -> Pairs:
        """Windows that end before the bracket that closes one opened in them, and the same with the other kind of bracket opened:
        round and square, at the commonest distance."""
        tokens = self.windows(self.length)
        before, most = 8, self.length - 9
        by_gap: dict[int, list[np.ndarray]] = {}
        for row in tokens:
            for start in np.flatnonzero(np.isin(row[:-1], list(b"(["))):
                inner = nesting(row[None, start:])[0]
                ends = np.flatnonzero(inner == 0)
                gap = int(ends[0]) if len(ends) else 0
                if 4 <= gap <= most and start >= before and row[start + gap] in (row[start] + 1, row[start] + 2):
                    by_gap.setdefault(gap, []).append(row[start - before : start + gap + 1])
        if not by_gap:
            raise UserError("expected text with brackets to patch, got none; analyse a run on source code")
        clean = np.stack(max(by_gap.values(), key=len)[:items])
        corrupt = clean.copy()
        square = clean[:, before] == ord("[")
        corrupt[:, before] = np.where(square, ord("("), ord("["))
        corrupt[:, -1] = np.where(square, ord(")"), ord("]"))
        name = bytes(clean[0].astype(np.uint8)).decode("utf-8", "replace")
        return Pairs(self.rows(clean, [-1]), self.rows(corrupt, [-1]), self.characters(clean[0, :-1]), repr(name))

    def shown(self) -> tuple[Rows, list[str], str]:
        tokens = self.windows(self.length)
        chosen = tokens[[int(nesting(tokens[:, :24])[:, -1].argmax())], :25]
        name = bytes(chosen[0, :-1].astype(np.uint8)).decode("utf-8", "replace")
        return self.rows(chosen, [-1]), self.characters(chosen[0, :-1]), repr(name)

    def characters(self, tokens: Int[np.ndarray, "n"]) -> list[str]:
        return [chr(t) if 32 < t < 127 else "·" for t in tokens.tolist()]
