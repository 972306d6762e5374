"""Hybrid: the recursive grid decoder on ARC problems, conditioned on what a language model that ran once made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array
from pydantic import Field

from jaxsrc.errors import UserError
from jaxsrc.feature_cache import FeatureConfig, FeatureTable, read_features
from jaxsrc.hybrid_data import HybridDataConfig, Problems, draw
from jaxsrc.models.grid_decoder import Features, GridDecoder, GridDecoderConfig, Latents, restart, starts
from jaxsrc.modules.sparse_table import loss_and_row_gradients, sign_sgd_rows
from jaxsrc.modules.stablemax import stablemax_cross_entropy
from jaxsrc.protocol import Metrics, PyTree, Stage
from jaxsrc.report import Report


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """The puzzle table's own optimiser, sign-SGD with decoupled decay on the rows in the batch; rate 0 switches it off."""

    rate: Annotated[float, Field(ge=0)] = 1e-2
    decay: Annotated[float, Field(ge=0)] = 0.1


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """batch: rows a step; steps: of training, each one supervised step of every row; early_halt: at evaluation a row keeps
    the answer of the step at which it halts, instead of going on to model.halt_steps."""

    kind: Literal["hybrid"] = "hybrid"
    data: HybridDataConfig = field(default_factory=HybridDataConfig)
    model: GridDecoderConfig = field(default_factory=GridDecoderConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    table: TableConfig = field(default_factory=TableConfig)
    batch: Annotated[int, Field(ge=1)] = 32
    steps: Annotated[int, Field(ge=0)] = 1000
    early_halt: bool = False


class Predicted(NamedTuple):
    """Of each sample: tokens int8[n, s], halting logit float32[n], supervised steps made int32[n]."""

    tokens: np.ndarray
    halt: np.ndarray
    steps: np.ndarray


def moved(tokens: Array, shift: Array, fill: int) -> Array:
    """Canvases [b, s] moved down and right by shift [b, 2]; what comes in from outside is `fill`."""
    side = int(tokens.shape[1] ** 0.5)

    def one(canvas: Array, by: Array) -> Array:
        line = jnp.arange(side)
        inside = (line >= by[0])[:, None] & (line >= by[1])[None]
        return jnp.where(inside, jnp.roll(canvas.reshape(side, side), by, (0, 1)), fill).ravel()

    return jax.vmap(one)(tokens, shift)


class HybridExperiment:
    """See `protocol.Experiment` and `protocol.Carried`. The carry holds the puzzle table, the latents of every row of the
    batch and what the row is working on: a row gets a new sample at the step after it halted."""

    def __init__(self, config: HybridConfig):
        c = self.config = config
        c.model.check()
        if c.data.max_side > c.model.side:
            raise UserError(
                f"experiment.model.side: expected at least data.max_side {c.data.max_side}, got {c.model.side}; raise it"
            )
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: GridDecoder(c.model, nnx.Rngs(0))))
        self.carry: PyTree = None

    @cached_property
    def problems(self) -> Problems:
        return draw(self.config.data)

    @cached_property
    def features(self) -> FeatureTable | None:
        """Hidden states of every sample's prompt, read from the cache; None without conditioning."""
        if self.config.model.conditioning == "none":
            return None
        c = self.config
        return read_features(c.features, self.problems, c.model.side, c.model.features, c.model.conditioning)

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        return self.problems.arrays(self.config.model.side)

    @property
    def stages(self) -> Sequence[Stage]:
        return self._stages

    @cached_property
    def _stages(self) -> Sequence[Stage]:
        """Without conditioning no data are read; with it, tasks and the headers of their features."""
        c = self.config
        name = f"hybrid, {c.model.conditioning}"
        if c.model.conditioning == "none":
            return [Stage(name, c.steps, self._batch_at)]
        assert self.features is not None
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.features.shapes())
        return [Stage(name, c.steps, self._batch_at, self.features.arrays, shapes)]

    def _batch_at(self, seed: int, step: int) -> dict[str, np.ndarray]:
        """A task for each row, then a sample of it; rows that have not halted will not look at theirs."""
        rng = np.random.default_rng((seed, step))
        groups, a = self.problems.trainable, self.arrays
        rows = [groups[g] for g in rng.integers(len(groups), size=self.config.batch)]
        picked = np.array([r[rng.integers(len(r))] for r in rows], np.int32)
        shift = (rng.random((len(picked), 2)) * (a["room"][picked] + 1)).astype(np.int32)
        if not self.config.data.translate:
            shift = np.zeros_like(shift)
        return {
            "sample": picked,
            "inputs": a["inputs"][picked],
            "labels": a["labels"][picked],
            "puzzle": a["puzzle"][picked],
            "shift": shift,
        }

    def abstract_batch(self, stage: int) -> dict[str, Any]:
        b, s = self.config.batch, self.config.model.cells
        int32, int8 = (lambda *d: jax.ShapeDtypeStruct(d, jnp.int32)), (lambda *d: jax.ShapeDtypeStruct(d, jnp.int8))
        return {
            "sample": int32(b), "inputs": int8(b, s), "labels": int8(b, s), "puzzle": int32(b), "shift": int32(b, 2)
        }  # fmt: skip

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Every row starts halted, so that the first step gives each its first sample."""
        c, b = self.config.model, self.config.batch
        first, second = jax.random.split(key)
        model = GridDecoder(c, nnx.Rngs(first))
        latents = jnp.zeros((b, c.tokens, c.width))
        whole = self.config.data.train + self.config.data.validate
        int32 = lambda *d: jnp.zeros(d, jnp.int32)
        carry = {
            "table": jnp.zeros((whole * self.config.data.views, c.width)),
            "start": starts(c, second),
            "latents": {"y": latents, "z": jnp.copy(latents)},
            "halted": jnp.ones(b, bool),
            "steps": int32(b),
            "own": jnp.full((b, c.cells), -1, jnp.int8),
            "row": {
                "sample": int32(b),
                "inputs": jnp.zeros((b, c.cells), jnp.int8),
                "labels": jnp.zeros((b, c.cells), jnp.int8),
                "puzzle": int32(b),
                "shift": int32(b, 2),
            },
        }
        return nnx.to_pure_dict(nnx.state(model, nnx.Param)), carry

    def _features(self, batch: PyTree, sample: Array, shift: Array) -> Features | None:
        if "hidden" not in batch:
            return None
        hidden = jax.lax.bitcast_convert_type(batch["hidden"][sample], jnp.bfloat16)
        mask = jnp.arange(hidden.shape[1])[None] < batch["tokens"][sample][:, None]
        return Features(hidden, mask, moved(batch["cells"][sample], shift, -1))

    def loss(
        self, params: PyTree, carry: PyTree, batch: PyTree, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        """Mean over rows of (mean stablemax cross-entropy over its cells) + BCE(halt, answer exact) / 2, as TRM's loss."""
        c = self.config.model
        fresh = carry["halted"]
        pick = lambda new, old: jnp.where(fresh.reshape(-1, *[1] * (old.ndim - 1)), new, old)
        row = {name: pick(batch[name], old) for name, old in carry["row"].items()}
        steps = jnp.where(fresh, 0, carry["steps"]) + 1
        own = pick(jnp.int8(-1), carry["own"])
        at = restart(Latents(**carry["latents"]), fresh, carry["start"])
        inputs, labels = (moved(row[name], row["shift"], 0).astype(jnp.int32) for name in ("inputs", "labels"))
        features = self._features(batch, row["sample"], row["shift"])
        counted = labels > 0

        def whole(params: PyTree, rows: Array) -> tuple[Array, PyTree]:
            answer = nnx.merge(self.graph, params)(inputs, rows, at, features, own.astype(jnp.int32))
            nats = jnp.where(counted, stablemax_cross_entropy(answer.logits, labels), 0).sum(1)
            cells = nats / jnp.maximum(counted.sum(1), 1)
            said = answer.logits.argmax(-1)
            exact = jnp.where(counted, said == labels, True).all(1)
            halting = optax.sigmoid_binary_cross_entropy(answer.halt, exact.astype(jnp.float32))
            return (cells + 0.5 * halting).mean(), (answer, cells.mean(), halting.mean(), said, exact)

        rows = carry["table"][row["puzzle"]]
        loss, aux, gradient = loss_and_row_gradients(whole, params, rows)
        answer, cells, halting, said, exact = aux
        table = carry["table"]
        if train and self.config.table.rate:
            table = sign_sgd_rows(table, row["puzzle"], gradient, self.config.table.rate, self.config.table.decay)
        halted = steps >= c.halt_steps
        if train and c.halt_steps > 1:
            first, second = jax.random.split(key)
            exploring = jax.random.bernoulli(first, c.explore, halted.shape)
            least = jnp.where(exploring, jax.random.randint(second, halted.shape, 2, c.halt_steps + 1), 0)
            halted = (halted | (answer.halt > 0)) & (steps >= least)
        new = {
            **carry,
            "table": table,
            "latents": {"y": answer.latents.y, "z": answer.latents.z},
            "halted": halted,
            "steps": steps,
            "own": said.astype(jnp.int8),
            "row": row,
        }
        one, done = jnp.float32(1), halted.astype(jnp.float32)
        right = jnp.where(counted, said == labels, False).sum(1)
        metrics = {
            "cells_loss": (cells, one),
            "halt_loss": (halting, one),
            "accuracy": (right.sum().astype(jnp.float32), counted.sum().astype(jnp.float32)),
            "exact": ((exact * done).sum(), done.sum()),
            "steps": ((steps * done).sum(), done.sum()),
        }
        return loss, (metrics, new)

    def take(self, carry: PyTree) -> None:
        """See `protocol.Carried`."""
        self.carry = carry

    @cached_property
    def _predict(self) -> Any:
        c = self.config.model
        early = self.config.early_halt

        def predict(params: PyTree, carry: PyTree, batch: PyTree) -> tuple[Array, Array, Array]:
            model = nnx.merge(self.graph, params)
            n = len(batch["inputs"])
            inputs, rows = batch["inputs"].astype(jnp.int32), carry["table"][batch["puzzle"]]
            features = self._features(batch, jnp.arange(n), jnp.zeros((n, 2), jnp.int32))
            zeros = jnp.zeros((n, c.tokens, c.width), jnp.float32)
            at = restart(Latents(zeros, zeros), jnp.ones(n, bool), carry["start"])

            def going(state: tuple) -> Array:
                count, _, _, _, halted, _ = state
                return (count < c.halt_steps) & ~halted.all()

            def step(state: tuple) -> tuple:
                count, at, said, halt, halted, made = state
                answer = model(inputs, rows, at, features, said)
                said = jnp.where(halted[:, None], said, answer.logits.argmax(-1).astype(jnp.int32))
                halt = jnp.where(halted, halt, answer.halt)
                made = made + ~halted
                halted = halted | (answer.halt > 0) if early else halted
                latents = jax.tree.map(lambda new, old: new.astype(old.dtype), answer.latents, at)
                return count + 1, latents, said, halt, halted, made

            said = jnp.full((n, c.cells), -1, jnp.int32)
            start = (jnp.int32(0), at, said, jnp.zeros(n), jnp.zeros(n, bool), jnp.zeros(n, jnp.int32))
            _, _, said, halt, _, made = jax.lax.while_loop(going, step, start)
            return said.astype(jnp.int8), halt, made

        return jax.jit(predict)

    def predict(self, params: PyTree, samples: Sequence[int]) -> Predicted:
        """Answers to samples, batch by batch in one shape; labels are not looked at."""
        assert self.carry is not None
        table = {"table": self.carry["table"], "start": self.carry["start"]}
        b, found = self.config.batch, []
        index = np.array(samples, np.int32)
        padded = np.pad(index, (0, -len(index) % b), mode="edge")
        for i in range(0, len(padded), b):
            part = padded[i : i + b]
            batch = {name: self.arrays[name][part] for name in ("inputs", "puzzle")}
            if self.features is not None:
                batch |= self.features.rows(part)
            found.append(jax.device_get(self._predict(params, table, batch)))
        said, halt, made = (np.concatenate(x)[: len(index)] for x in zip(*found, strict=True))
        return Predicted(said, halt, made)

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        from jaxsrc import hybrid_evaluate

        return hybrid_evaluate.measure(self, params)

    def finish(self, params: PyTree, report: Report) -> None:
        from jaxsrc import hybrid_evaluate

        hybrid_evaluate.summarize(self, params, report)
        report.note(f"next: python -m jaxsrc.evaluate {report.run}")
