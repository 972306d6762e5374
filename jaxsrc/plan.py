"""An experiment together with how to train it, and the state and the step that follow from both."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from jaxsrc.checkpoint import abstract
from jaxsrc.errors import UserError
from jaxsrc.loop import TrainConfig, total_steps
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.protocol import Experiment
from jaxsrc.runtime import Runtime, RuntimeConfig
from jaxsrc.state import TrainState, init_state
from jaxsrc.step import CompiledOnce, several, train_step
from jaxsrc.sweep import SweepExperiment, sweep_step


@dataclass(frozen=True)
class Plan:
    """An experiment and how to train it; `resolved` is the whole configuration as plain data."""

    name: str
    seed: int
    experiment: Experiment
    optim: OptimConfig
    train: TrainConfig
    runtime: RuntimeConfig
    resolved: dict

    def __post_init__(self) -> None:
        """UserError where the steps of a stage are no whole number of calls."""
        for stage in self.experiment.stages:
            if stage.steps % self.train.steps_per_call:
                raise UserError(
                    f"train.steps_per_call: expected a divisor of the {stage.steps} steps of stage '{stage.name}', got "
                    f"{self.train.steps_per_call}; change one of them"
                )


def make_step(plan: Plan, runtime: Runtime) -> CompiledOnce:
    """The compiled-once training step of a stage: (state, batch, resident) -> (state, metrics), all replicated but the batch."""
    if isinstance(plan.experiment, SweepExperiment):
        sweep, over = plan.experiment, plan.experiment.over(runtime.platform)
        step = sweep_step(sweep, runtime.compute_dtype, over, runtime.replicated)
        chosen = several(step) if plan.train.steps_per_call > 1 else step
        out = (sweep.sharding(runtime), runtime.replicated)
        return CompiledOnce(chosen, "training step", ("state", "batch", "resident"), donate=(0,), out=out)
    optimizer = make_optimizer(plan.optim, total_steps(plan.experiment.stages))
    step = train_step(plan.experiment, optimizer, runtime.compute_dtype, plan.optim.ema)
    chosen = several(step) if plan.train.steps_per_call > 1 else step
    return CompiledOnce(chosen, "training step", ("state", "batch", "resident"), donate=(0,), out=runtime.replicated)


def _init(plan: Plan, runtime: Runtime):
    if isinstance(plan.experiment, SweepExperiment):
        sweep, half = plan.experiment, runtime.precision == "float16"
        return lambda: sweep.init_state(scaled=half)
    optimizer = make_optimizer(plan.optim, total_steps(plan.experiment.stages))
    scaled = runtime.precision == "float16"
    return lambda: init_state(plan.experiment, optimizer, plan.seed, ema=plan.optim.ema > 0, scaled=scaled)


def _sharding(plan: Plan, runtime: Runtime) -> jax.sharding.NamedSharding:
    """Of the state: whole on every device, but a sweep's runs may lie on different ones."""
    return plan.experiment.sharding(runtime) if isinstance(plan.experiment, SweepExperiment) else runtime.replicated


def abstract_state(plan: Plan, runtime: Runtime) -> TrainState:
    """Shapes, types and shardings of the state; nothing is computed."""
    if isinstance(plan.experiment, SweepExperiment):
        plan.experiment.check_memory(runtime)
    return abstract(jax.eval_shape(_init(plan, runtime)), _sharding(plan, runtime))


def fresh_state(plan: Plan, runtime: Runtime) -> TrainState:
    """The state before the first step, made on the devices."""
    return jax.jit(_init(plan, runtime), out_shardings=_sharding(plan, runtime))()
