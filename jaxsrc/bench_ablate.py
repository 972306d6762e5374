"""The hybrid with its features as they are, zeroed, shuffled between tasks, pooled, aligned, crossed and absent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jaxsrc import config as configuration
from jaxsrc import hybrid_evaluate
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig
from jaxsrc.feature_cache import Change
from jaxsrc.hybrid_experiment import HybridConfig, HybridExperiment
from jaxsrc.models.grid_decoder import Conditioning
from jaxsrc.plan import Plan
from jaxsrc.train import run

ARMS: dict[str, tuple[Conditioning, Change]] = {
    "none": ("none", "none"),
    "pooled": ("pooled", "none"),
    "aligned": ("aligned", "none"),
    "cross": ("cross", "none"),
    "cross, features zeroed": ("cross", "zeroed"),
    "cross, features shuffled": ("cross", "shuffled"),
}
COLUMNS = (
    *("arm", "training exact", "training pass@2", "validation exact", "validation pass@2", "95 % interval"),
    *("shape", "cells", "canvas", "seconds"),
)


def variant(config: RunConfig, arm: str, steps: int) -> RunConfig:
    """The configuration of an arm: the same but for how features enter, and for as many steps."""
    if not isinstance(config.experiment, HybridConfig):
        raise UserError(f"expected a configuration of kind hybrid, got {config.experiment.kind}; e.g. configs/hybrid_tiny.yaml")
    conditioning, change = ARMS[arm]
    hybrid = config.experiment
    made = replace(
        hybrid,
        steps=steps or hybrid.steps,
        model=replace(hybrid.model, conditioning=conditioning),
        features=replace(hybrid.features, change=change),
    )
    return replace(config, name=f"{config.name}_{arm.replace(', ', '_').replace(' ', '_')}", experiment=made)


def _line(name: str, training: list[str], validation: list[str], seconds: str) -> list[str]:
    """From rows under `hybrid_evaluate.COLUMNS`."""
    at = {column: i for i, column in enumerate(hybrid_evaluate.COLUMNS)}
    pick = lambda row, *columns: [row[at[c]] for c in columns]
    return [
        name,
        *pick(training, "pass@1", "pass@2"),
        *pick(validation, "pass@1", "pass@2", "95 % interval", "shape", "cells", "canvas"),
        seconds,
    ]


def measure(config: RunConfig, steps: int, out: Path, say: Callable[[str], None], arms: tuple[str, ...] = ()) -> list[list[str]]:
    """Train every arm from one seed on the same data (again: it goes on), and score all beside the baselines."""
    found: list[list[str]] = []
    baselines: list[list[str]] = []
    for arm in arms or tuple(ARMS):
        chosen = variant(config, arm, steps)
        experiment = HybridExperiment(chosen.experiment)  # type: ignore[arg-type]
        plan = Plan(
            chosen.name, chosen.seed, experiment, chosen.optim, chosen.train, chosen.runtime, configuration.to_dict(chosen)
        )
        start = time.monotonic()
        _, state = run(plan, out / chosen.name, quiet=True)
        seconds = time.monotonic() - start
        experiment.take(state.carry)
        problems = experiment.problems
        training, validation = (
            hybrid_evaluate.rows(experiment, hybrid_evaluate.answers(experiment, state.best_params, part), part)
            for part in (range(problems.training), range(problems.training, len(problems.tasks)))
        )
        found.append(_line(arm, training[0], validation[0], f"{seconds:.0f}"))
        baselines = [_line(t[0], t, v, "-") for t, v in zip(training[2:], validation[2:], strict=True)]
        say(f"{arm}: training {training[0][1]}, validation {validation[0][1]}, {seconds:.0f} s")
    return found + baselines

