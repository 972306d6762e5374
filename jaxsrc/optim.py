"""Optimiser and schedule from their configuration; every part is optax's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import optax
from pydantic import Field

from jaxsrc.adam_atan2 import adam_atan2
from jaxsrc.errors import UserError

PACKED = 2**24  # parameters up to which the optimiser works on one vector; above, the copy would cost real memory


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """learning_rate: at its peak; warmup_steps: linear from zero; schedule: after that, down to final_fraction of the
    peak at the last step; clip_norm: of the whole gradient, 0 for none; accumulate: steps whose gradients make one
    update (warm-up and schedule count updates); ema: decay a step of the parameters' moving average that evaluation
    uses, 0 for none."""

    kind: Literal["adamw", "sgd", "adam_atan2"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    weight_decay: Annotated[float, Field(ge=0)] = 0.02
    b1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    b2: Annotated[float, Field(ge=0, lt=1)] = 0.99
    clip_norm: Annotated[float, Field(ge=0)] = 1.0
    accumulate: Annotated[int, Field(ge=1)] = 1
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate of each update out of `steps`."""
    updates = max(steps // config.accumulate, 1)
    warmup = min(config.warmup_steps, updates)
    peak, last = config.learning_rate, config.learning_rate * config.final_fraction
    rest = max(updates - warmup, 1)
    after = {
        "cosine": optax.cosine_decay_schedule(peak, rest, config.final_fraction),
        "linear": optax.linear_schedule(peak, last, rest),
        "constant": optax.constant_schedule(peak),
    }[config.schedule]
    return optax.join_schedules([optax.linear_schedule(0.0, peak, max(warmup, 1)), after], [warmup])


def packed(core: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser on all parameters as one vector, for models up to `PACKED` numbers.

    Every array of the state costs about a microsecond of the host at each dispatch: AdamW over 400 parameters passes
    1200 arrays, packed it passes 400 and a few.
    """
    flat = optax.flatten(core)

    def chosen(params: Any) -> optax.GradientTransformation:
        return flat if sum(math.prod(x.shape) for x in jax.tree.leaves(params)) <= PACKED else core

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return chosen(updates).update(updates, state, params)

    return optax.GradientTransformation(lambda params: chosen(params).init(params), update)


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """Clipping, the optimiser with its schedule, accumulation.

    Errors: UserError where warm-up leaves no update, or steps are fewer than one accumulation.
    """
    updates = steps // config.accumulate
    if steps and not updates:
        raise UserError(f"optim.accumulate: expected at most the {steps} training steps, got {config.accumulate}; lower it")
    if steps > 1 and config.warmup_steps >= updates:
        raise UserError(
            f"optim.warmup_steps: expected fewer than the {updates} updates of the training, got {config.warmup_steps}; lower it"
        )
    schedule = make_schedule(config, steps)
    if config.kind == "adamw":
        core = optax.adamw(schedule, b1=config.b1, b2=config.b2, weight_decay=config.weight_decay)
    elif config.kind == "adam_atan2":
        core = adam_atan2(schedule, config.b1, config.b2, config.weight_decay)
    else:
        core = optax.chain(optax.add_decayed_weights(config.weight_decay), optax.sgd(schedule, momentum=config.b1))
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    chained = optax.chain(*parts, core)
    if config.accumulate > 1:
        chained = optax.MultiSteps(chained, config.accumulate).gradient_transformation()
    return packed(chained)
