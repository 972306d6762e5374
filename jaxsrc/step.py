"""The training step: pure, donated, compiled once, and the error that says why it would be compiled again."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxsrc.errors import RunError
from jaxsrc.protocol import Experiment, Metrics, PyTree
from jaxsrc.state import MINIMUM_SCALE, LossScale, TrainState, leaf_table

GROWTH = 1000  # good float16 steps after which the loss scale doubles
MAX_SCALE = 2.0**24


class RecompileError(RunError):
    """A compiled step was called with other shapes, types or structure."""


class CompiledOnce:
    """A jitted function compiled ahead of time on its first call; another signature is an error that names the leaf."""

    def __init__(self, function: Callable, name: str, donate: tuple[int, ...] = ()):
        self.name = name
        self._jitted = jax.jit(function, donate_argnums=donate)
        self._compiled: Any = None
        self.signature: dict[str, str] = {}
        self.compile_seconds = 0.0
        self.flops = 0.0
        self.memory_bytes = 0

    def compile(self, *args: PyTree) -> None:
        """Lower and compile for these arguments (arrays or abstract values)."""
        start = time.perf_counter()
        self.signature = leaf_table(args)
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
            return self._compiled(*args)
        except (TypeError, ValueError) as error:
            now = leaf_table(args)
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


def _cast(tree: PyTree, dtype: jnp.dtype) -> PyTree:
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def _next_scale(scale: LossScale, finite: jax.Array) -> LossScale:
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
) -> Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]:
    """(state, batch) -> (state, metrics). Parameters stay float32, the loss is computed in `dtype`.

    Metrics gain grad_norm; in float16 also overflow (steps skipped because the scaled gradient was not finite).
    """

    def step(state: TrainState, batch: PyTree) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step + 1)
        scale = jnp.float32(1) if state.loss_scale is None else state.loss_scale.scale

        def scaled_loss(params: PyTree) -> tuple[jax.Array, tuple[Metrics, PyTree]]:
            loss, aux = experiment.loss(_cast(params, dtype), state.carry, _cast(batch, dtype), key, train=True)
            return loss.astype(jnp.float32) * scale, aux

        gradient, (metrics, carry) = jax.grad(scaled_loss, has_aux=True)(state.params)
        gradient = jax.tree.map(lambda g: g.astype(jnp.float32) / scale, gradient)
        norm = optax.global_norm(gradient)
        one = jnp.float32(1)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = None if state.ema is None else optax.incremental_update(params, state.ema, 1 - ema)
        new = TrainState(state.step + 1, params, opt_state, averaged, carry, state.loss_scale, state.key)
        if state.loss_scale is not None:
            finite = jnp.isfinite(norm)
            kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, state)
            new = TrainState(
                state.step + 1, kept.params, kept.opt_state, kept.ema, kept.carry,
                _next_scale(state.loss_scale, finite), state.key,
            )  # fmt: skip
            metrics |= {"overflow": (1 - finite.astype(jnp.float32), one), "loss_scale": (new.loss_scale.scale, one)}
            norm = jnp.where(finite, norm, 0.0)
            metrics = {k: (jnp.where(finite, s, 0.0), w) for k, (s, w) in metrics.items()} if metrics else metrics
        metrics = {name: (jnp.float32(s), jnp.float32(w)) for name, (s, w) in metrics.items()}
        return new, metrics | {"grad_norm": (norm, one)}

    return step


def several(step: Callable[[TrainState, PyTree], tuple[TrainState, Metrics]]) -> Callable:
    """The step over a leading axis of batches, in one scan; metrics of all steps, stacked."""

    def scanned(state: TrainState, batches: PyTree) -> tuple[TrainState, Metrics]:
        return jax.lax.scan(step, state, batches)

    return scanned
