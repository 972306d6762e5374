"""What a step costs with a gate and without one: seconds measured here and now, floating-point operations counted by XLA."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxsrc.examples import Examples
from jaxsrc.gate_config import DenseGate, SundewGate
from jaxsrc.protocol import PyTree
from jaxsrc.step import CompiledOnce

if TYPE_CHECKING:
    from jaxsrc.gated import GatedExperiment

ROUNDS = 5
SECONDS = 10.0  # after which no further round of timing starts


@dataclass(frozen=True)
class Cost:
    """seconds, dense_seconds: of a gradient step with the gate and without, the median of timed steps, paired in one run;
    epoch, dense_epoch: steps of an epoch times that; train_flops: a trained sample; score_flops: a scored one."""

    seconds: float
    dense_seconds: float
    epoch: float
    dense_epoch: float
    train_flops: float
    score_flops: float

    @property
    def speedup(self) -> float:
        return self.dense_epoch / self.epoch

    def flops(self, trained: int | float, scored: int | float) -> float:
        """Of the model, with so many samples trained on and scored; the gate's own arithmetic is not counted."""
        return trained * self.train_flops + scored * self.score_flops

    def saved(self, passed: int | float, trained: int | float, scored: int | float) -> float:
        """Share of the operations of training on all that passed."""
        return 1 - self.flops(trained, scored) / self.flops(passed, 0)


class _Timed:
    """A gradient step of an experiment, compiled, that carries the gate's state along."""

    def __init__(self, experiment: GatedExperiment, params: PyTree, carry: PyTree, table: PyTree):
        self.params, self.carry, self.experiment, self.table = params, carry, experiment, table

        def step(params, carry, batch, table, key):
            value = lambda p: experiment.loss(p, carry, {**batch, **table}, key, train=True)
            gradient, (_, new) = jax.grad(value, has_aux=True)(params)
            return gradient, new

        self.step = CompiledOnce(step, "timed step", ("params", "carry", "batch", "table", "key"))

    def _batch(self, step: int) -> PyTree:
        return {k: jnp.asarray(v) for k, v in self.experiment.batch_at(0, step).items()}

    def seconds(self, steps: int) -> float:
        """Of a step, over `steps` in a row."""
        batches = [self._batch(i) for i in range(steps)]
        key = jax.random.key(1)
        jax.block_until_ready(batches)
        start = time.perf_counter()
        for batch in batches:
            gradient, self.carry = self.step(self.params, self.carry, batch, self.table, key)
        jax.block_until_ready((gradient, self.carry))
        return (time.perf_counter() - start) / steps


def measure(experiment: GatedExperiment, params: PyTree, carry: PyTree, rounds: int = ROUNDS) -> Cost:
    """Times dense and gated steps in turn, past the gate's warm-up, and counts their operations."""
    from jaxsrc.gated import GatedExperiment

    data, gate = experiment.data, experiment.gate
    table = {k: jnp.asarray(v) for k, v in data.resident().items()}
    dense = GatedExperiment(data, DenseGate())
    middle = carry._replace(step=jnp.int32(experiment.sizes.steps // 2))
    gated = _Timed(experiment, params, middle, table)
    plain = gated if isinstance(gate, DenseGate) else _Timed(dense, params, carry, table)
    cycle = gate.every if isinstance(gate, SundewGate) and gate.policy == "every_k" else 2
    found: list[tuple[float, float]] = []
    for warming in (gated, plain):
        warming.seconds(1)
    begun = time.perf_counter()
    for _ in range(rounds):
        found.append((gated.seconds(cycle), plain.seconds(2)))
        if time.perf_counter() - begun > SECONDS:
            break
    mine, theirs = (float(np.median(x)) for x in zip(*found, strict=True))
    each = dense.sizes.capacity
    return Cost(
        mine,
        theirs,
        mine * experiment.per_epoch,
        theirs * dense.per_epoch,
        plain.step.flops / each,
        _scoring(data, each, early=isinstance(gate, SundewGate) and gate.policy == "proxy"),
    )


def _abstract(data: Examples, batch: int) -> tuple[PyTree, PyTree]:
    rows = {k: jax.ShapeDtypeStruct((batch, *v.shape[1:]), v.dtype) for k, v in data.resident_shapes.items()}
    return jax.eval_shape(data.init, jax.random.key(0)), rows


def _operations(function: Callable, data: Examples, batch: int) -> float:
    """Of a sample, as XLA counts them for a batch."""
    found = CompiledOnce(function, "counted", ("params", "rows"))
    found.compile(*_abstract(data, batch))
    return found.flops / batch


def _scoring(data: Examples, batch: int, *, early: bool = False) -> float:
    full = lambda p, rows: data.losses(p, rows, None).measured
    return _operations(data.early.measure if early and data.early else full, data, batch)


def counted(data: Examples, batch: int = 64) -> tuple[float, float]:
    """Operations of training on a sample and of scoring one by a forward pass."""
    train = jax.grad(lambda p, rows: data.losses(p, rows, None).loss.mean())
    return _operations(train, data, batch), _scoring(data, batch)
