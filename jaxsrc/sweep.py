"""A grid of runs trained in one compiled program: states stacked along a run axis, units and alphas and rates as data.

Each run makes the steps it would make alone: its own parameters, optimiser, clipping, data order and dropout. A run that
diverges is frozen as it was before that step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array

from jaxsrc.errors import UserError
from jaxsrc.memory import free_memory
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.protocol import Metrics, PyTree, Stage
from jaxsrc.report import Report
from jaxsrc.runtime import Runtime
from jaxsrc.state import TrainState, count, init_state
from jaxsrc.step import StepMetrics, train_step
from jaxsrc.sweep_config import gatings, kinds_of_members, members
from jaxsrc.text_experiment import Scores, TextConfig, TextExperiment, measures


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RunData:
    """What tells the runs apart, a leading run axis on every leaf. gating: unit and alpha; rate: learning rate, float32;
    seed: int32; stream: which of the batch's data orders, int32."""

    gating: Any
    rate: Any
    seed: Any
    stream: Any


class SweepExperiment:
    """See `protocol.Experiment`; parameters and carry have a leading run axis, a batch an axis of data orders after its own.

    The carry is {'of': the runs' carries, 'frozen': step at which a run diverged, -1 while it has not, int32[r]}.
    """

    def __init__(self, config: TextConfig, optim: OptimConfig, seed: int):
        assert config.sweep is not None
        self.config, self.optim, self.sweep = config, optim, config.sweep
        self.members = members(config.sweep, config.model, optim.learning_rate, seed)
        self.kinds = kinds_of_members(self.members, config.model)
        self.base = TextExperiment(dataclasses.replace(config, model=self.members[0].model(config.model)), self.kinds)
        self.seeds = list(dict.fromkeys(m.seed for m in self.members))
        self.carry: PyTree = None
        self.stages: Sequence[Stage] = [Stage(f"sweep of {len(self.members)} runs", config.steps, self._batch_at)]

    @cached_property
    def data(self) -> RunData:
        array = lambda values, dtype: jnp.asarray(np.asarray(values, dtype))
        with jax.ensure_compile_time_eval():  # first asked for while a step is traced, and kept
            gating = jax.tree.map(lambda *v: jnp.stack(v), *gatings(self.members, self.kinds))
            rate = array([m.learning_rate for m in self.members], np.float32)
            seed = array([m.seed for m in self.members], np.int32)
            return RunData(gating, rate, seed, array([self.seeds.index(m.seed) for m in self.members], np.int32))

    def _batch_at(self, seed: int, step: int) -> dict[str, np.ndarray]:
        c = self.config
        orders = [self.base.text.batch_at(s, step, c.batch, c.model.length) for s in self.seeds]
        return {"tokens": np.stack(orders, 1)}

    def abstract_batch(self, stage: int) -> dict[str, Any]:
        shape = (self.config.batch, len(self.seeds), self.config.model.length + 1)
        return {"tokens": jax.ShapeDtypeStruct(shape, jnp.int32)}

    def bound(self, data: RunData) -> TextExperiment:
        """The experiment of one run, its choices traced."""
        return TextExperiment(self.base.config, self.kinds, data.gating)

    def optimizer(self, rate: Array | float) -> optax.GradientTransformation:
        """The run's optimiser: built for a rate of 1 and scaled, so that the rate may be data."""
        unit = make_optimizer(dataclasses.replace(self.optim, learning_rate=1.0), self.config.steps)
        return optax.chain(unit, optax.scale(rate))  # type: ignore[arg-type]

    def init_state(self, *, scaled: bool) -> TrainState:
        """All runs' states, stacked; traceable."""

        def one(seed: Array) -> TrainState:
            state = init_state(self.base, self.optimizer(1.0), seed, ema=self.optim.ema > 0, scaled=scaled)
            return dataclasses.replace(state, carry={"of": state.carry, "frozen": jnp.int32(-1)})

        return jax.lax.map(one, self.data.seed)

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """Of `init_state`, which the seeds of the sweep decide, not `key`."""
        state = self.init_state(scaled=False)
        return state.params, state.carry

    def loss(
        self, params: PyTree, carry: PyTree, batch: PyTree, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        raise NotImplementedError("a sweep trains by `sweep_step`")

    def take(self, carry: PyTree) -> None:
        """See `protocol.Carried`."""
        self.carry = carry

    @cached_property
    def _score(self) -> Any:
        def score(data: RunData, params: PyTree, carry: PyTree, tokens: Array, weights: Array) -> Any:
            one = lambda args: self.bound(args[0])._score(args[1], args[2], tokens, weights)
            return jax.lax.map(one, (data, params, carry))

        return jax.jit(score)

    def window_scores(self, params: PyTree, limit: int) -> Scores:
        """Scores of the validation windows, float64[runs, w] each."""
        carry = self.carry["of"]
        return self.base.by_window(lambda tokens, weights: self._score(self.data, params, carry, tokens, weights), limit)

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        """Bits a byte of every run, and of the best one; frozen runs are left out."""
        s = self.window_scores(params, self.config.data.windows)
        frozen = np.asarray(self.carry["frozen"]) >= 0
        found = {}
        for member, n, t, gone in zip(self.members, s.nats.sum(1), s.targets.sum(1), frozen, strict=True):
            if not gone:
                found[f"val/{member.name}"] = measures(n, t, 0.0, self.base.text.bytes_per_token)["bits_per_byte"]
        best = min(found.values(), default=math.inf)
        return {"val/best_bits_per_byte": best, "val/score": -best, **found} if found else {}

    def finish(self, params: PyTree, report: Report) -> None:
        from jaxsrc import leaderboard

        leaderboard.write(self, params, report)

    def member_params(self, params: PyTree, index: int) -> PyTree:
        """Parameters of one run as it would have them alone: those that serve other units or alphas are left out."""
        shapes, _ = jax.eval_shape(self.member_experiment(index).init, jax.random.key(0))
        pick = lambda like, tree: {k: pick(v, tree[k]) for k, v in like.items()} if isinstance(like, dict) else tree[index]
        return pick(shapes, params)

    def member_experiment(self, index: int) -> TextExperiment:
        """One run as an experiment of its own."""
        return TextExperiment(dataclasses.replace(self.config, sweep=None, model=self.members[index].model(self.config.model)))

    def over(self, platform: str) -> str:
        """How the runs share the program on this platform."""
        return self.sweep.over if self.sweep.over != "auto" else "map" if platform == "cpu" else "vmap"

    def sharding(self, runtime: Runtime) -> NamedSharding:
        """Runs over the devices where they divide, else everything everywhere."""
        whole = len(self.members) % len(runtime.devices) == 0 and self.over(runtime.platform) == "vmap"
        return NamedSharding(runtime.mesh, PartitionSpec("data") if whole else PartitionSpec())

    def bytes_needed(self, platform: str) -> tuple[int, int]:
        """Estimate: (bytes of each run, bytes that do not grow with the runs)."""
        c, m = self.config, self.config.model
        shapes, _ = jax.eval_shape(self.base.init, jax.random.key(0))
        parameters = 4 * count(shapes)
        layer = 14 * m.width + 6 * self.base.config.model.features + 2 * m.heads * m.length
        passing = 2 * parameters + 4 * c.batch * m.length * (m.layers * layer + 3 * m.vocabulary)
        state = parameters * (3 + (self.optim.ema > 0))
        return (state + passing, 0) if self.over(platform) == "vmap" else (state, passing)

    def check_memory(self, runtime: Runtime) -> None:
        """UserError with the estimate and the largest sweep that fits, before anything is allocated."""
        free = free_memory(runtime)
        each, shared = self.bytes_needed(runtime.platform)
        if self.sharding(runtime).spec != PartitionSpec():
            each /= len(runtime.devices)
        needed = len(self.members) * each + shared
        if free is not None and needed > free:
            fits = max(int((free - shared) / each), 0)
            raise UserError(
                f"experiment.sweep: expected to fit in {free / 2**30:.1f} GiB of free memory, got {len(self.members)} runs that "
                f"need about {needed / 2**30:.1f} GiB; at most {fits} fit: shorten an axis, or make the model or batch smaller"
            )


def sweep_step(
    experiment: SweepExperiment, dtype: jnp.dtype, over: str, replicated: Any
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """(stacked state, batch) -> (stacked state, metrics of every run by its name)."""
    limit = experiment.sweep.limit * math.log(experiment.config.model.vocabulary)

    def one(data: RunData, state: TrainState, batch: PyTree) -> tuple[TrainState, Array]:
        frozen = state.carry["frozen"]
        step = train_step(experiment.bound(data), experiment.optimizer(data.rate), dtype, experiment.optim.ema)
        mine = {"tokens": jnp.take(batch["tokens"], data.stream, axis=1)}
        new, metrics = step(dataclasses.replace(state, carry=state.carry["of"]), mine)
        rows = {n: metrics.values[i] for i, n in enumerate(metrics.names)}
        loss = rows["loss"][0] / jnp.maximum(rows["loss"][1], 1e-9)
        skipped = rows["overflow"][0] > 0 if "overflow" in rows else jnp.asarray(False)
        good = skipped | (jnp.isfinite(loss) & (loss < limit) & jnp.isfinite(rows["grad_norm"][0]))
        live = (frozen < 0) & good
        now = jnp.where((frozen < 0) & ~good, state.step + 1, frozen)
        new = dataclasses.replace(new, carry={"of": new.carry, "frozen": now})
        kept = dataclasses.replace(state, step=state.step + 1, carry={"of": state.carry["of"], "frozen": now})
        new = jax.tree.map(lambda a, b: jnp.where(live, a, b), new, kept)
        return new, jnp.where(live & ~skipped, jnp.stack([loss, jnp.float32(1)]), 0.0)

    def in_turn(data: RunData, state: TrainState, batch: PyTree) -> tuple[TrainState, Array]:
        # a loop that writes into its own carry, so that the donated states are changed where they lie
        runs = len(experiment.members)
        at = lambda tree, i: jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)

        def body(i: Array, carried: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
            states, losses = carried
            new, loss = one(at(data, i), at(states, i), batch)
            put = lambda whole, part: jax.lax.dynamic_update_index_in_dim(whole, part, i, 0)
            return jax.tree.map(put, states, new), put(losses, loss)

        return jax.lax.fori_loop(0, runs, body, (state, jnp.zeros((runs, 2))))

    side_by_side = jax.vmap(one, in_axes=(0, 0, None))

    def step(state: TrainState, batch: PyTree, resident: PyTree = ()) -> tuple[TrainState, StepMetrics]:
        batch = jax.lax.with_sharding_constraint(batch, replicated)
        state, losses = (side_by_side if over == "vmap" else in_turn)(experiment.data, state, batch)
        frozen = (state.carry["frozen"] >= 0).sum().astype(jnp.float32)
        total = jnp.stack([losses[:, 0].sum(), losses[:, 1].sum()])
        rows = [total, jnp.stack([frozen, jnp.float32(1)]), *losses]
        return state, StepMetrics(jnp.stack(rows), ("loss", "frozen", *(f"run/{m.name}" for m in experiment.members)))

    return step
