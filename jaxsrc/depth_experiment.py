"""Nested arithmetic as an experiment: three tracks (direct, steps, rewrite), greedy exact match, deeper than trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import Field

from jaxsrc.data.expression_sampler import SamplerConfig, check, fewest, sample_many
from jaxsrc.data.expression_text import PAD, pad
from jaxsrc.data.expressions import Expression
from jaxsrc.decoding import make_greedy
from jaxsrc.depth_data import (
    Batch,
    DepthDataConfig,
    Pool,
    Track,
    drill_pool,
    prompt_row,
    read_answer,
    rewrite_pools,
    sequence_pool,
    training_expressions,
    vocabulary,
)
from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformer, DepthTransformerConfig
from jaxsrc.protocol import Metrics, PyTree, Stage
from jaxsrc.report import Report
from jaxsrc.rewriting import Rewriter, marks

ROWS = 128  # expressions that are answered at a time
TEST_SEED = 10**6  # tests are drawn apart from training, and what training shows is left out of them


@dataclass(frozen=True, kw_only=True)
class DepthConfig:
    """track: direct answers, one text of all steps, or rewriting (mark, reduce, replace); loss: on every token or on the
    answer's; batch: rows a step; reduce_batch, reduce_length: rows and tokens of single reductions a step, of the rewrite track
    and of the drills of the steps track; short: of rewriting, tokens of the short rows of marks and reductions, a quarter as
    many longer ones come with them (padding costs time); validate: expressions of each training depth that a validation
    solves."""

    kind: Literal["depth"] = "depth"
    track: Track = "direct"
    loss: Literal["all", "answer"] = "answer"
    data: DepthDataConfig = field(default_factory=DepthDataConfig)
    model: DepthTransformerConfig = field(default_factory=DepthTransformerConfig)
    batch: Annotated[int, Field(ge=1)] = 32
    reduce_batch: Annotated[int, Field(ge=1)] = 64
    reduce_length: Annotated[int, Field(ge=8)] = 44
    short: tuple[int, int] = (32, 24)
    steps: Annotated[int, Field(ge=0)] = 3000
    validate: Annotated[int, Field(ge=0)] = 32


def token_loss(
    logits: Float[Array, "b n v"], labels: Int[Array, "b n"], asked: Bool[Array, "b n"], name: str
) -> tuple[Float[Array, ""], Metrics]:
    """Mean cross-entropy of the labels asked for; metrics under NAME, teacher-forced: the model reads the right tokens."""
    weight = asked.astype(jnp.float32)
    total = jnp.maximum(weight.sum(), 1.0)
    labels = labels.astype(jnp.int32)
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits.astype(jnp.float32)), labels[..., None], -1)[..., 0]
    loss = -(picked * weight).sum()
    right = logits.argmax(-1) == labels
    rows = jnp.all(right | ~asked, -1).astype(jnp.float32).sum()
    metrics = {
        f"{name}loss": (loss, total),
        f"{name}teacher_forced_token": ((right * weight).sum(), total),
        f"{name}teacher_forced_row": (rows, jnp.float32(len(labels))),
    }
    return loss / total, metrics


class DepthExperiment:
    """See `protocol.Experiment`. Expressions are drawn on the first batch or validation."""

    def __init__(self, config: DepthConfig):
        check(config.data.sampler)
        self.config = config
        if config.track == "direct" and config.data.drills:
            raise UserError(
                f"data.drills: expected 0 for the direct track, got {config.data.drills}; set it so, or choose another track"
            )
        self.size = len(vocabulary(config.track))
        self._rewriters: dict[int, Rewriter] = {}
        self._greedy: dict[int, Any] = {}
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: DepthTransformer(config.model, self.size, nnx.Rngs(0))))
        self.stages: Sequence[Stage] = [Stage(f"{config.track}, depth {self.trained_depth}", config.steps, self.batch_at)]

    @property
    def trained_depth(self) -> str:
        data = self.config.data
        found = (0, 2) if data.source == "study" else sorted({min(data.sampler.depths), max(data.sampler.depths)})
        return "-".join(map(str, found))

    @cached_property
    def training(self) -> list[Expression]:
        return training_expressions(self.config.data)

    @cached_property
    def pools(self) -> dict[str, Pool]:
        c = self.config
        if c.track == "rewrite":
            made = rewrite_pools(self.training, c.data, c.model.length, c.reduce_length)
            pools = [part for pool, n in zip(made, c.short, strict=True) for part in pool.split(n)]
        else:
            pools = [sequence_pool(c.track, self.training, c.model.length, c.data.reverse)]
            pools += [drill_pool(c.data, c.reduce_length)] if c.data.drills else []
        return dict(zip(self._parts, pools, strict=True))

    @property
    def _parts(self) -> dict[str, tuple[int, int]]:
        """(rows, tokens) of each part of a batch."""
        c = self.config
        texts, reductions = (c.batch, c.model.length), (c.reduce_batch, c.reduce_length)
        if c.track != "rewrite":
            return {"text": texts, "drills": reductions} if c.data.drills else {"text": texts}
        found = {}
        for kind, (rows, tokens), short in (("marks", texts, c.short[0]), ("reduce", reductions, c.short[1])):
            found |= {kind: (rows, short), f"{kind}_long": (max(rows // 4, 1), tokens)}
        return found

    @property
    def rows(self) -> int:
        """Rows of a step; of the rewrite track they are single readings."""
        return sum(rows for rows, _ in self._parts.values())

    def batch_at(self, seed: int, step: int) -> dict[str, Batch]:
        rng = np.random.default_rng((seed, step))
        return {part: self.pools[part].batch(rng, rows) for part, (rows, _) in self._parts.items()}

    def abstract_batch(self, stage: int) -> PyTree:
        found = {}
        for part, shape in self._parts.items():
            tokens = jax.ShapeDtypeStruct(shape, jnp.int8)
            found[part] = {"tokens": tokens, "labels": tokens, "begin": jax.ShapeDtypeStruct(shape[:1], jnp.int32)}
        return found

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        model = DepthTransformer(self.config.model, self.size, nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param)), ()

    def loss(
        self, params: PyTree, carry: PyTree, batch: PyTree, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        model = nnx.merge(self.graph, params)
        total, metrics = jnp.float32(0), {}
        for i, (part, rows) in enumerate(batch.items()):
            tokens, labels = rows["tokens"].astype(jnp.int32), rows["labels"]
            noise = jax.random.fold_in(key, i) if train else None
            asked = labels != PAD
            if part.startswith("marks"):
                logits = marks(model, tokens, (tokens != PAD).sum(-1), noise)
            else:
                logits = model(tokens, key=noise)[0]
                if self.config.loss == "answer":
                    asked &= jnp.arange(tokens.shape[1]) >= rows["begin"][:, None]
            loss, found = token_loss(logits, labels, asked, "" if len(batch) == 1 else f"{part}_")
            total, metrics = total + loss / len(batch), metrics | found
        return total, (metrics, carry)

    def tests(self, depth: int, count: int, *, longer: int = 2, seed: int = 0) -> list[Expression]:
        """Fresh expressions of one depth without redundant parentheses, none of them trained on.

        longer: numbers beyond the fewest that the depth needs; two to four numbers as in the study for depths up to 2.
        """
        sampler = self.config.data.sampler
        least = fewest(depth, sampler.operators)
        operands = (2, 4) if depth <= 2 else (least, least + longer)
        wanted = SamplerConfig(
            depths=(depth,), operands=operands, operators=sampler.operators, numbers=sampler.numbers, limit=sampler.limit
        )
        return sample_many(TEST_SEED + seed, count, wanted, {e.text for e in self.training})

    def rewriter(self, params: PyTree, batch: int = ROWS) -> Rewriter:
        """A reader of the rewrite track; one a batch size is compiled."""
        made = self._rewriters.setdefault(batch, Rewriter(self.graph, params, batch=batch))
        made.params = params
        return made

    def answers(self, params: PyTree, items: Sequence[Expression], loops: int | None = None) -> list[int | None]:
        """What the model answers by greedy decoding; None where it is no number.

        loops: times that the layers are gone through, if not the configuration's; not for the rewrite track.
        """
        c = self.config
        if c.track == "rewrite":
            return [t.answer for t in self.rewriter(params).run([e.text for e in items])]
        new = 12 if c.track == "direct" else c.model.length
        greedy = self._greedy.setdefault(loops or 0, make_greedy(self.graph, new, loops))
        rows = [prompt_row(c.track, e.text) for e in items]
        longest = -(-max(map(len, rows)) // 16) * 16  # few shapes, few compilations
        found: list[int | None] = []
        for begin in range(0, len(rows), ROWS):
            part = rows[begin : begin + ROWS]
            part = part + [part[0]] * (ROWS - len(part))
            lengths = jnp.array([len(r) for r in part], jnp.int32)
            out = greedy(params, jnp.asarray(pad(part, longest), jnp.int32), lengths)
            found += [read_answer(c.track, row, c.data.reverse) for row in np.asarray(out).tolist()]
        return found[: len(rows)]

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        """Share of fresh expressions of the training depths whose greedy answer is exactly right."""
        if not self.config.validate:
            return {}
        sets = {d: self.tests(d, self.config.validate, seed=1) for d in sorted(set(self.config.data.sampler.depths))}
        items = [e for part in sets.values() for e in part]
        right = iter([a == e.result for a, e in zip(self.answers(params, items), items, strict=True)])
        shares = {d: float(np.mean([next(right) for _ in part])) for d, part in sets.items()}
        return {"val/exact": float(np.mean(list(shares.values()))), **{f"val/depth {d}": v for d, v in shares.items()}}

    def finish(self, params: PyTree, report: Report) -> None:
        report.note(
            f"{self.config.track} track, trained on {len(self.training)} expressions of depth {self.trained_depth}; "
            f"next: python -m jaxsrc.evaluate {report.run}"
        )
