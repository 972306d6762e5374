"""What a model of nested arithmetic is trained on: pools of rows for each track, and batches drawn from them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import add
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from jaxsrc.data.expression_sampler import SamplerConfig, sample_many
from jaxsrc.data.expression_steps import chain, drill, next_step, outline, reduced
from jaxsrc.data.expression_study import study_data
from jaxsrc.data.expression_text import BOS, EOS, REWRITE, STUDY, Vocabulary, pad, reverse_numbers
from jaxsrc.data.expressions import Expression, read
from jaxsrc.errors import UserError
from jaxsrc.rewriting import locate_labels, locate_row, reduce_answer, reduce_prompt

Track = Literal["direct", "steps", "rewrite"]
Batch = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class DepthDataConfig:
    """source: 'study' (its 2000 expressions), 'sampled', or the path of a JSON lines file; examples, seed: of the sample;
    drills: single reductions beside the examples, of up to drill_digits digits, for the steps and rewrite tracks; reverse:
    answers of the direct track with their units first."""

    source: str = "sampled"
    examples: Annotated[int, Field(ge=1)] = 20_000
    seed: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    drills: Annotated[int, Field(ge=0)] = 0
    drill_digits: Annotated[int, Field(ge=2)] = 8
    reverse: bool = False


def training_expressions(config: DepthDataConfig) -> list[Expression]:
    """Everything that training may show."""
    if config.source == "study":
        return study_data().train
    if config.source == "sampled":
        return sample_many(config.seed, config.examples, config.sampler)
    return read(config.source)


def vocabulary(track: Track) -> Vocabulary:
    return STUDY if track == "direct" else REWRITE


def prompt_row(track: Track, text: str) -> list[int]:
    """Tokens up to and with the sign that asks for the answer."""
    if track == "direct":
        return [BOS, *STUDY.encode(f"{text} = ")]
    return [BOS, *REWRITE.encode(reverse_numbers(text) + "=")]


def answer_row(track: Track, item: Expression, reverse: bool) -> list[int]:
    """Tokens that a right model of the direct or steps track answers, EOS last."""
    if track == "direct":
        text = str(item.result)
        return [*STUDY.encode(reverse_numbers(text) if reverse else text), EOS]
    return [*REWRITE.encode(reverse_numbers("=".join(outline(item.text)[1:]))), EOS]


def read_answer(track: Track, tokens: Sequence[int], reverse: bool) -> int | None:
    """The number that generated tokens end in, None where they are none."""
    if EOS not in tokens:
        return None
    text = vocabulary(track).decode(tokens)
    if track == "steps":
        text = text.rsplit("=", 1)[-1].replace("~", "-")
    if track == "steps" or reverse:
        text = reverse_numbers(text)
    digits = text[1:] if text.startswith("-") else text
    return int(text) if digits.isascii() and digits.isdigit() else None


@dataclass(frozen=True)
class Pool:
    """Rows to draw from. tokens: int8[r, n], padded; labels: int8[r, n], 0 where nothing is asked; begin: int[r], the first
    label of the answer."""

    tokens: np.ndarray
    labels: np.ndarray
    begin: np.ndarray

    def split(self, length: int) -> tuple[Pool, Pool]:
        """Rows of at most `length` tokens, cut to it, and the longer ones (all, where none is longer)."""
        short = (self.tokens[:, length:] == 0).all(1)
        most = self.tokens.shape[1]
        if length >= most or not short.any():
            got = f"{length} of {most} tokens" if length >= most else "only longer ones"
            raise UserError(f"short: expected some rows to be shorter than the longest, got {got}; change experiment.short")
        part = lambda at, n: Pool(self.tokens[at, :n], self.labels[at, :n], self.begin[at])
        return part(short, length), self if short.all() else part(~short, most)

    def batch(self, rng: np.random.Generator, rows: int) -> Batch:
        chosen = rng.integers(0, len(self.tokens), rows)
        return {"tokens": self.tokens[chosen], "labels": self.labels[chosen], "begin": self.begin[chosen].astype(np.int32)}


def _next_tokens(prompts: Sequence[list[int]], answers: Sequence[list[int]], length: int) -> Pool:
    whole = pad([p + a for p, a in zip(prompts, answers, strict=True)], length + 1)
    return Pool(whole[:, :-1], whole[:, 1:], np.array([len(p) - 1 for p in prompts], np.int64))


def sequence_pool(track: Track, items: Sequence[Expression], length: int, reverse: bool) -> Pool:
    """Rows of the direct and steps tracks; UserError where one is longer than the model."""
    prompts = [prompt_row(track, e.text) for e in items]
    answers = [answer_row(track, e, reverse) for e in items]
    for item, tokens in zip(items, map(len, map(add, prompts, answers)), strict=True):
        if tokens > length + 1:
            raise UserError(
                f"expected expressions with their answers of at most {length + 1} tokens, got {tokens} for {item.text[:60]}; "
                "raise model.length or leave it out"
            )
    return _next_tokens(prompts, answers, length)


def drill_sites(config: DepthDataConfig) -> list[str]:
    """Random pairs of numbers with an operator."""
    rng = random.Random(f"drills {config.seed}")
    return [drill(rng, config.drill_digits, config.sampler.limit) for _ in range(config.drills)]


def drill_pool(config: DepthDataConfig, length: int) -> Pool:
    """Drills of the steps track: a pair of numbers, then its value at one go."""
    steps = [step for site in drill_sites(config) if (step := next_step(site)) is not None]
    return _next_tokens([reduce_prompt(s.site) for s in steps], [reduce_answer(s.result) for s in steps], length)


def rewrite_pools(items: Sequence[Expression], config: DepthDataConfig, length: int, reduce_length: int) -> tuple[Pool, Pool]:
    """Marks on every text of every chain that fits; every reduction of the chains once, and the drills.

    As often as chains need them, easy reductions would crowd out the long ones from which the rules are learned.
    """
    texts: list[tuple[list[int], list[int]]] = []
    once: dict[str, str] = {}
    for item in items:
        steps = chain(item.text)
        for step in steps:
            if len(step.text) + 2 <= length:
                texts.append((locate_row(step.text), locate_labels(step.text)))
            once[step.site.strip("()")] = step.new
        ends = [s.result for s in steps if s.new != s.result] + [outline(item.text)[-1]]
        texts += [(locate_row(e), locate_labels(e)) for e in ends]
    sites = [*once.items(), *((site, reduced(site)) for site in drill_sites(config))]
    marks = Pool(pad([t for t, _ in texts], length), pad([m for _, m in texts], length), np.zeros(len(texts), np.int64))
    fitting = [(p, a) for s, n in sites if len(p := reduce_prompt(s)) + len(a := reduce_answer(n)) <= reduce_length + 1]
    if not texts or not fitting:
        raise UserError(f"expected rewriting steps of at most {length} tokens, got none; raise model.length")
    return marks, _next_tokens([p for p, _ in fitting], [a for _, a in fitting], reduce_length)
