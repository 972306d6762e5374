"""The training step: pure, donated, compiled once, and the error that says why it would be compiled again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxsrc.errors import RunError
from jaxsrc.protocol import Experiment, Leaf, Metrics, PyTree
from jaxsrc.state import MINIMUM_SCALE, LossScale, TrainState, leaf_table

GROWTH = 1000  # good float16 steps after which the loss scale doubles
MAX_SCALE = 2.0**24


class RecompileError(RunError):
    """A compiled step was called with other shapes, types or structure."""


class CompiledOnce:
    """A jitted function compiled ahead of time, once; a call with another signature is an error that names the leaf.

    flops: of one call, a `lax.scan` inside counted once (as XLA does); memory_bytes: arguments, outputs and scratch.
    """

    def __init__(
        self,
        function: Callable,
        name: str,
        arguments: tuple[str, ...],
        *,
        donate: tuple[int, ...] = (),
        out: Any = None,
    ):
        self.name = name
        self.arguments = arguments
        self._jitted = jax.jit(function, donate_argnums=donate, out_shardings=out)
        self._compiled: Any = None
        self.signature: dict[str, str] = {}
        self.compile_seconds = 0.0
        self.flops = 0.0
        self.memory_bytes = 0

    @property
    def ready(self) -> bool:
        return self._compiled is not None

    def _table(self, args: tuple[PyTree, ...]) -> dict[str, str]:
        return leaf_table(dict(zip(self.arguments, args, strict=False)))

    def compile(self, *args: PyTree) -> None:
        """Lower and compile for these arguments (arrays or abstract values)."""
        start = time.perf_counter()
        self.signature = self._table(args)
        self._compiled = self._jitted.lower(*args).compile()
        self.compile_seconds = time.perf_counter() - start
        cost = self._compiled.cost_analysis() or {}
        self.flops = float((cost[0] if isinstance(cost, list) else cost).get("flops", 0.0))
        memory = self._compiled.memory_analysis()
        if memory is not None:
            self.memory_bytes = int(
                memory.temp_size_in_bytes
                + memory.argument_size_in_bytes
                + memory.output_size_in_bytes
                - memory.alias_size_in_bytes
            )

    def __call__(self, *args: PyTree) -> Any:
        if self._compiled is None:
            self.compile(*args)
        try:
            return self._compiled(*args)  # pyright: ignore[reportOptionalCall]
        except (TypeError, ValueError) as error:
            now = self._table(args)
            changed = [
                f"{path}: {self.signature.get(path, 'absent')} then, {now.get(path, 'absent')} now"
                for path in sorted({*self.signature, *now})
                if self.signature.get(path) != now.get(path)
            ]
            if not changed:
                raise
            raise RecompileError(
                f"{self.name}: expected the shapes it was compiled for; {'; '.join(changed[:5])}; "
                "give every batch of a stage one shape"
            ) from error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StepMetrics:
    """Metrics of a call as one array, so that the host fetches once. values: float32[..., m, 2], sums and weights."""

    values: Leaf
    names: tuple[str, ...] = field(metadata={"static": True})

    def rows(self) -> list[dict[str, tuple[float, float]]]:
        """name -> (sum, weight) of each step of the call; `values` must be on the host."""
        steps = self.values.reshape(-1, len(self.names), 2).tolist()
        return [{n: (v[0], v[1]) for n, v in zip(self.names, step, strict=True)} for step in steps]


def _pack(metrics: Metrics) -> StepMetrics:
    names = ("loss", *sorted(n for n in metrics if n != "loss"))  # the first that a progress line shows
    rows = [jnp.stack([jnp.float32(x) for x in metrics[n]]) for n in names]
    return StepMetrics(jnp.stack(rows), names)


def _cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _next_scale(scale: LossScale, finite: Array) -> LossScale:
    grown = scale.good + 1 >= GROWTH
    up = jnp.where(grown, jnp.minimum(scale.scale * 2, MAX_SCALE), scale.scale)
    good = jnp.where(finite & ~grown, scale.good + 1, 0)
    value = jnp.where(finite, up, jnp.maximum(scale.scale / 2, MINIMUM_SCALE))
    return LossScale(value, good, scale.overflows + (1 - finite.astype(jnp.int32)))


def train_step(
    experiment: Experiment,
    optimizer: optax.GradientTransformation,
    dtype: jnp.dtype,
    ema: float,
) -> Callable[..., tuple[TrainState, StepMetrics]]:
    """(state, batch[, resident]) -> (state, metrics). Parameters stay float32, the loss is computed in `dtype`.

    Metrics gain grad_norm, and loss where the experiment names none; in float16 also loss_scale and overflow: a step
    whose scaled gradient is not finite changes nothing but the scale and the step count.
    """

    def step(state: TrainState, batch: PyTree, resident: PyTree = ()) -> tuple[TrainState, StepMetrics]:
        if resident:
            batch = {**batch, **resident}
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step + 1)  # 0 made the parameters
        one = jnp.float32(1)
        scale = one if state.loss_scale is None else state.loss_scale.scale

        def scaled_loss(params: PyTree) -> tuple[Array, tuple[Array, Metrics, PyTree]]:
            loss, aux = experiment.loss(_cast(params, dtype), state.carry, _cast(batch, dtype), key, train=True)
            return loss.astype(jnp.float32) * scale, (loss.astype(jnp.float32), *aux)

        gradient, (loss, metrics, carry) = jax.grad(scaled_loss, has_aux=True)(state.params)
        gradient = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, gradient)
        norm = optax.global_norm(gradient)
        metrics = {"loss": (loss, one), **metrics, "grad_norm": (norm, one)}
        carry = jax.tree.map(lambda new, old: new.astype(old.dtype), carry, state.carry)  # keep its own precision
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = None if state.ema is None else optax.incremental_update(params, state.ema, 1 - ema)
        new = TrainState(state.step + 1, params, opt_state, averaged, carry, state.loss_scale, state.key)
        if state.loss_scale is not None:
            finite = jnp.isfinite(norm)
            kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
            grown = _next_scale(state.loss_scale, finite)
            new = TrainState(state.step + 1, kept.params, kept.opt_state, kept.ema, kept.carry, grown, state.key)
            # a skipped step weighs nothing, so that the shown means stay those of the steps that were made
            metrics = {k: (jnp.where(finite, s, 0.0), jnp.where(finite, w, 0.0)) for k, (s, w) in metrics.items()}
            metrics |= {"overflow": (1 - finite.astype(jnp.float32), one), "loss_scale": (grown.scale, one)}
        return new, _pack(metrics)

    return step


def several(step: Callable[..., tuple[TrainState, StepMetrics]]) -> Callable:
    """The step over a leading axis of batches, in one scan; metrics of all steps, stacked."""

    def scanned(state: TrainState, batches: PyTree, resident: PyTree = ()) -> tuple[TrainState, StepMetrics]:
        return jax.lax.scan(lambda s, b: step(s, b, resident), state, batches)

    return scanned
