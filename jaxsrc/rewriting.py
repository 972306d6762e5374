"""An expression rewritten by a model until only a number is left: it marks characters, reads them alone, and replaces them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from jaxsrc.data.expression_steps import to_int
from jaxsrc.data.expression_text import BOS, EOS, REWRITE, pad, reverse_numbers
from jaxsrc.decoding import make_greedy
from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformer
from jaxsrc.protocol import PyTree

KEEP, TAKE = REWRITE.one("k"), REWRITE.one("t")
_NUMBER = re.compile(r"~?\d+")
BUCKETS = (32, 64, 96, 128, 192, 256)


def locate_row(text: str) -> list[int]:
    """What the model reads to mark characters: BOS, the text with every number's units first, EOS."""
    return [BOS, *REWRITE.encode(reverse_numbers(text)), EOS]


def locate_labels(text: str, start: int, stop: int) -> list[int]:
    """A mark for every token of `locate_row`; BOS and EOS are kept."""
    return [KEEP] + [TAKE if start <= i < stop else KEEP for i in range(len(text))] + [KEEP]


def reduce_prompt(site: str) -> list[int]:
    """What the model reads to reduce: BOS, the marked characters without their own parentheses, units first, "="."""
    inner = site[1:-1] if site.startswith("(") and site.endswith(")") else site
    return [BOS, *REWRITE.encode(reverse_numbers(inner) + "=")]


def reduce_answer(new: str) -> list[int]:
    return [*REWRITE.encode(reverse_numbers(new)), EOS]


def marks(
    model: DepthTransformer, tokens: Int[Array, "b n"], lengths: Int[Array, "b"], key: Array | None = None
) -> Float[Array, "b n v"]:
    """Logits of every character's mark; the characters see each other both ways."""
    return model(tokens, prefix=lengths, key=key)[0]


@dataclass
class Trace:
    """texts: from the expression on; answer: the number at the end, None where the model came to none; why not."""

    texts: list[str] = field(default_factory=list)
    answer: int | None = None
    failure: str = ""


class Rewriter:
    """Rewriting by a model of the rewrite track, many expressions at a time.

    batch: rows of one compiled call; new: most tokens of a replacement; passes: most steps of an expression.
    """

    def __init__(self, graph: Any, params: PyTree, *, batch: int = 128, new: int = 40, passes: int = 150):
        self.params, self.batch, self.new, self.passes = params, batch, new, passes
        self._greedy = make_greedy(graph, new)
        self._locate = jax.jit(lambda p, t, n: marks(nnx.merge(graph, p), t, n)[..., jnp.array([KEEP, TAKE])].argmax(-1))

    def _chunks(self, rows: Sequence[list[int]], function: Any) -> list[np.ndarray]:
        """Rows in groups of one shape: sorted by length, padded to a bucket and to the batch."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        found: list[Any] = [None] * len(rows)
        for begin in range(0, len(order), self.batch):
            group = order[begin : begin + self.batch]
            longest = max(len(rows[i]) for i in group)
            length = next((b for b in BUCKETS if b >= longest), None)
            if length is None:
                raise UserError(f"expected at most {BUCKETS[-1]} characters, got {longest}; shorten the expression")
            filled = [rows[i] for i in group] + [[BOS, EOS]] * (self.batch - len(group))
            lengths = np.array([len(r) for r in filled], np.int32)
            out = np.asarray(function(self.params, jnp.asarray(pad(filled, length), jnp.int32), jnp.asarray(lengths)))
            for i, row in zip(group, out, strict=False):
                found[i] = row
        return found

    def step(self, texts: Sequence[str]) -> list[str | None]:
        """The next text of each; the same text where the model marks nothing; None where its marks are no stretch."""
        rows = [locate_row(t) for t in texts]
        chosen = self._chunks(rows, self._locate)
        spans: list[tuple[int, int] | None] = []
        for text, mark in zip(texts, chosen, strict=True):
            taken = np.flatnonzero(mark[1 : len(text) + 1])
            whole = len(taken) == 0 or taken[-1] - taken[0] + 1 == len(taken)
            spans.append(((int(taken[0]), int(taken[-1]) + 1) if len(taken) else (0, 0)) if whole else None)
        busy = [i for i, s in enumerate(spans) if s is not None and s[1] > s[0]]
        answers = self._chunks([reduce_prompt(texts[i][slice(*spans[i])]) for i in busy], self._greedy) if busy else []  # type: ignore[misc]
        out: list[str | None] = [t if s is not None else None for t, s in zip(texts, spans, strict=True)]
        for i, answer in zip(busy, answers, strict=True):
            start, stop = spans[i]  # type: ignore[misc]
            ended = EOS in answer
            out[i] = texts[i][:start] + reverse_numbers(REWRITE.decode(answer.tolist())) + texts[i][stop:] if ended else None
        return out

    def run(self, texts: Sequence[str]) -> list[Trace]:
        """Rewrite each expression until the model marks nothing more."""
        traces = [Trace([t]) for t in texts]
        live = list(range(len(texts)))
        for _ in range(self.passes):
            if not live:
                break
            ahead = []
            for i, new in zip(live, self.step([traces[j].texts[-1] for j in live]), strict=True):
                trace = traces[i]
                if new is None or len(new) + 2 > BUCKETS[-1]:
                    trace.failure = "marks that are no stretch, or an answer without end"
                elif new == trace.texts[-1]:
                    if _NUMBER.fullmatch(new):
                        trace.answer = to_int(new)
                    else:
                        trace.failure = "nothing marked, but not a number"
                else:
                    trace.texts.append(new)
                    ahead.append(i)
            live = ahead
        for i in live:
            traces[i].failure = f"not finished after {self.passes} steps"
        return traces
