"""Training on the samples that a gate lets through: any `Examples` and any gate, as one experiment of the engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsrc import gate_config, gate_report, gate_select
from jaxsrc.errors import UserError
from jaxsrc.examples import Examples
from jaxsrc.gate_config import DenseGate, Gate, RandomGate, SundewGate
from jaxsrc.gate_select import GateState, Scorers
from jaxsrc.protocol import Metrics, PyTree, Stage
from jaxsrc.report import Report

SUBSET_SEED = 7  # of the fixed random subset, so that it is the same for every run of a seed


class GatedExperiment:
    """See `protocol.Experiment`; the carry is the gate's state, so that a resumed run goes on exactly."""

    def __init__(self, examples: Examples, gate: Gate):
        self.data = examples
        self.asked = gate
        self.gate = gate_config.effective(gate, examples.early.cost if examples.early else 0.0)
        if isinstance(gate, SundewGate) and gate.policy == "proxy" and examples.early is None:
            raise UserError("gate.policy: expected a model with an early head for 'proxy', got none; set model.exit_layer")
        self.sizes = gate_config.sizes(self.gate, examples.count, examples.batch, examples.epochs, examples.steps)
        gate_config.check(gate, self.sizes if self.gate is gate else gate_config.sizes(gate, examples.count, examples.batch, 1))
        self.per_epoch = examples.count / self.sizes.passed  # steps of an epoch
        self.carry: GateState | None = None
        self._order = lru_cache(maxsize=4)(self._shuffled)
        stage = Stage(
            self.name, self.sizes.steps, self.batch_at, resident=examples.resident, resident_shapes=examples.resident_shapes
        )
        self.stages: Sequence[Stage] = [stage]

    @property
    def name(self) -> str:
        kind = self.gate.kind + (f" ({self.gate.policy})" if isinstance(self.gate, SundewGate) else "")
        return f"{self.data.name}, {kind} gate at {gate_config.rate_of(self.gate):.3g}"

    def _shuffled(self, seed: int, epoch: int) -> Int[np.ndarray, "n"]:
        """The order of an epoch; a fixed random subset repeats its own samples only."""
        pool = np.arange(self.data.count)
        if isinstance(self.gate, RandomGate) and self.gate.subset == "fixed":
            size = max(round(self.gate.rate * self.data.count), self.sizes.candidates)
            pool = np.random.default_rng((SUBSET_SEED, seed)).permutation(self.data.count)[:size]
        return np.random.default_rng((seed, epoch)).permutation(pool).astype(np.int32)

    def batch_at(self, seed: int, step: int) -> dict[str, np.ndarray]:
        """The candidates of a step: the next ones of an endless row of shuffles."""
        c = self.sizes.candidates
        length = len(self._order(seed, 0))
        begin, parts, left = step * c, [], c
        while left:
            epoch, at = divmod(begin, length)
            part = self._order(seed, epoch)[at : at + left]
            parts.append(part)
            begin, left = begin + len(part), left - len(part)
        return {"candidates": np.concatenate(parts)}

    def abstract_batch(self, stage: int) -> PyTree:
        return {"candidates": jax.ShapeDtypeStruct((self.sizes.candidates,), jnp.int32)}

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        return self.data.init(key), gate_select.start(self.gate, self.data.count)

    def _scorers(self, params: PyTree, table: dict[str, Array]) -> Scorers:
        """Forward passes over candidates, as many at a time as a step trains on, so that memory stays that of a step."""
        fixed = jax.lax.stop_gradient(params)
        size = self.sizes.capacity

        def over(rows: Int[Array, "c"], one) -> Float[Array, "c 4"]:
            c = len(rows)
            blocks = jnp.resize(rows, (-(-c // size), size))
            return jax.lax.map(one, blocks).reshape(-1, 4)[:c]

        take = lambda r: {k: v[r] for k, v in table.items()}
        full = lambda rows: over(rows, lambda r: self.data.losses(fixed, take(r), None).measured)
        early = self.data.early
        return Scorers(full, early and (lambda rows: over(rows, lambda r: early.measure(fixed, take(r)))))

    def loss(
        self, params: PyTree, carry: PyTree, batch: PyTree, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        table = dict(batch)
        rows = table.pop("candidates")
        choosing, noise = jax.random.split(key)
        chosen, state = gate_select.choose(
            self.gate, carry, rows, table["spread"], self._scorers(params, table), self.sizes, choosing, self.per_epoch
        )
        found = self.data.losses(params, {k: v[chosen.rows] for k, v in table.items()}, noise if train else None)
        weights = jax.lax.stop_gradient(chosen.weights)
        loss = (weights * found.loss.astype(jnp.float32)).sum()
        filled = chosen.selection.filled
        metrics = {
            "loss": ((filled * found.loss).sum(), filled.sum()),
            "accuracy": ((filled * found.right).sum(), filled.sum()),
            **gate_select.figures(chosen, self.sizes),
        }
        if self.data.early:
            early = (weights * found.early.astype(jnp.float32)).sum()
            share = self.gate.proxy_loss if isinstance(self.gate, SundewGate) else 0.0
            loss = loss + share * early
            metrics["early_loss"] = (early, jnp.float32(1))
        measured = jax.lax.stop_gradient(found.measured.astype(jnp.float32))
        return loss, (metrics, gate_select.remember(state, chosen, measured))

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        return self.data.validate(params)

    def take(self, carry: PyTree) -> None:
        self.carry = carry

    def finish(self, params: PyTree, report: Report) -> None:
        if self.gate is not self.asked:
            report.note(
                f"the gate fell back to dense training: at rate {gate_config.rate_of(self.asked):g} its scoring costs more "
                "than it saves (gate.fall_back=false trains with it all the same)"
            )
        self.data.finish(params, report)
        assert self.carry is not None
        if not isinstance(self.gate, DenseGate):
            gate_report.coverage(self, self.carry, report)
        gate_report.cost(self, params, self.carry, report)
