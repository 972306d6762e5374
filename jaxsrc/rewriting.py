"""An expression worked out by a model alone: it marks characters, reads them apart, and replaces them by what it makes of them.

What it makes of a longer product is no number but an easier expression, which the same model works out in the same way, as
a text of its own, before its number goes where the product stood. The loop below only keeps the texts apart.
"""

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

from jaxsrc.data.expression_steps import sites, to_int
from jaxsrc.data.expression_text import BOS, EOS, REWRITE, pad, reverse_numbers
from jaxsrc.decoding import make_greedy
from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformer
from jaxsrc.protocol import PyTree

KEEP, TAKE = REWRITE.one("k"), REWRITE.one("t")
_NUMBER = re.compile(r"~?\d+")
BUCKETS = (32, 64, 96, 128, 192, 256)
LONGEST = BUCKETS[-1] - 2  # characters; BOS and EOS come to them


def locate_row(text: str) -> list[int]:
    """What the model reads to mark characters: BOS, the text with every number's units first, EOS."""
    return [BOS, *REWRITE.encode(reverse_numbers(text)), EOS]


def locate_labels(text: str) -> list[int]:
    """The right mark for every token of `locate_row`; BOS and EOS are kept."""
    taken = {i for start, stop in sites(text) for i in range(start, stop)}
    return [KEEP] + [TAKE if i in taken else KEEP for i in range(len(text))] + [KEEP]


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
    """What became of an expression. stack: texts in progress, each with the span of it that the next one works out; calls: the
    (text, what the model made of its marks) so far; answer: the number at the end, None where there is none; why not."""

    stack: list[tuple[str, tuple[int, int]]]
    calls: list[tuple[str, str]] = field(default_factory=list)
    answer: int | None = None
    failure: str = ""

    @property
    def text(self) -> str:
        return self.stack[-1][0]

    def take(self, span: tuple[int, int], new: str) -> None:
        """Put a number in the place of the marks; anything else is worked out first, as a text of its own."""
        text = self.text
        self.calls.append((text, new))
        self.stack[-1] = (text, span)
        if _NUMBER.fullmatch(new):
            self.stack[-1] = (text[: span[0]] + new + text[span[1] :], (0, 0))
        else:
            self.stack.append((new, (0, 0)))

    def finish(self) -> None:
        """Nothing is marked: the text must be a number, which goes to where it was asked for."""
        text = self.stack.pop()[0]
        if not _NUMBER.fullmatch(text):
            self.failure = f"nothing marked in {text}, which is no number"
        elif not self.stack:
            self.answer = to_int(text)
        else:
            outer, (start, stop) = self.stack[-1]
            self.stack[-1] = (outer[:start] + text + outer[stop:], (0, 0))


class Rewriter:
    """Rewriting by a model of the rewrite track, many expressions at a time.

    batch: rows of one compiled call; new: most tokens of a replacement; passes: most marks of an expression.
    """

    def __init__(self, graph: Any, params: PyTree, *, batch: int = 128, new: int = 40, passes: int = 200):
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
            length = next(b for b in BUCKETS if b >= longest)
            filled = [rows[i] for i in group] + [[BOS, EOS]] * (self.batch - len(group))
            lengths = np.array([len(r) for r in filled], np.int32)
            out = np.asarray(function(self.params, jnp.asarray(pad(filled, length), jnp.int32), jnp.asarray(lengths)))
            for i, row in zip(group, out, strict=False):
                found[i] = row
        return found

    def mark(self, texts: Sequence[str]) -> list[tuple[int, int]]:
        """The first stretch of each text that the model marks, (0, 0) where it marks nothing."""
        spans: list[tuple[int, int]] = []
        for text, mark in zip(texts, self._chunks([locate_row(t) for t in texts], self._locate), strict=True):
            taken = mark[1 : len(text) + 1].astype(bool)
            start = int(taken.argmax()) if taken.any() else 0
            rest = taken[start:]
            spans.append((start, start + (len(rest) if rest.all() else int(rest.argmin()))))
        return spans

    def reduce(self, chosen: Sequence[str]) -> list[str]:
        """What the model makes of each site, read alone; empty where its answer does not end."""
        if not chosen:
            return []
        rows = self._chunks([reduce_prompt(s) for s in chosen], self._greedy)
        return [reverse_numbers(REWRITE.decode(r.tolist())) if EOS in r else "" for r in rows]

    def run(self, texts: Sequence[str]) -> list[Trace]:
        """Work out each expression until the model marks nothing more, all of them side by side."""
        for text in texts:
            if len(text) > LONGEST:
                raise UserError(f"expected at most {LONGEST} characters, got {len(text)} in {text[:40]}...; shorten it")
        traces = [Trace([(t, (0, 0))]) for t in texts]
        live = list(traces)
        for _ in range(self.passes):
            if not live:
                break
            busy: list[tuple[Trace, tuple[int, int]]] = []
            for trace, span in zip(live, self.mark([t.text for t in live]), strict=True):
                if span[1] == span[0]:
                    trace.finish()
                else:
                    busy.append((trace, span))
            for (trace, span), new in zip(busy, self.reduce([t.text[a:b] for t, (a, b) in busy]), strict=True):
                if not new or len(trace.text) + len(new) > LONGEST or len(trace.stack) > 20:
                    trace.failure = f"no usable answer to {trace.text[span[0] : span[1]]}"
                else:
                    trace.take(span, new)
            live = [t for t in live if not t.failure and t.answer is None]
        for trace in live:
            trace.failure = f"not finished after {self.passes} steps"
        return traces
