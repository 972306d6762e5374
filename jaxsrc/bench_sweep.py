"""A sweep's step against the steps of its runs one after another, compilation apart."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxsrc import runtime as runtimes
from jaxsrc.bench_device import ready
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig, build
from jaxsrc.protocol import Experiment
from jaxsrc.runtime import Runtime
from jaxsrc.sweep import SweepExperiment
from jaxsrc.sweep_config import SweepConfig
from jaxsrc.text_experiment import TextConfig

COLUMNS = ("arm", "runs", "a step of all, ms", "middle half, ms", "ratio to one after another", "compile, s")


@dataclass
class Arm:
    """One way to make a step of every run; seconds of each timed step of all, compile_seconds of all programs."""

    name: str
    runs: int
    step: Any
    state: Any
    batch: Any
    resident: Any
    times: int
    compile_seconds: float
    seconds: list[float]

    def __call__(self) -> float:
        start = time.perf_counter()
        for _ in range(self.times):
            self.state, metrics = self.step(self.state, self.batch, self.resident)
            jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - start


def _arm(name: str, config: RunConfig, experiment: Experiment, runs: int, times: int, runtime: Runtime) -> Arm:
    made = ready(config, experiment, runtime)
    return Arm(name, runs, *made, times, made.step.compile_seconds * times, [])


def measure(config: RunConfig, rounds: int) -> list[Arm]:
    """The runs one after another (one program, as all cost the same, called once for each run), then both kinds of sweep.

    The arms take turns. Errors: UserError for a configuration without a sweep.
    """
    if not isinstance(config.experiment, TextConfig) or config.experiment.sweep is None:
        raise UserError("expected a configuration with a sweep, got another; e.g. configs/text_sweep.yaml")
    runtime = runtimes.start(dataclasses.replace(config.runtime, compile_cache=""))
    made = build(config)
    assert isinstance(made, SweepExperiment)
    runs = len(made.members)
    arms = [_arm("one after another", config, made.member_experiment(0), runs, runs, runtime)]
    for over in ("map", "vmap"):
        sweep: SweepConfig = dataclasses.replace(config.experiment.sweep, over=over)
        chosen = dataclasses.replace(config, experiment=dataclasses.replace(config.experiment, sweep=sweep))
        arms.append(_arm(f"one program, {over}", config, build(chosen), runs, 1, runtime))
    for index in range(rounds + 1):
        for arm in arms:
            seconds = arm()
            if index:
                arm.seconds.append(seconds)
    return arms


def rows(arms: list[Arm]) -> list[tuple]:
    base = float(np.median(arms[0].seconds))
    found = []
    for arm in arms:
        low, high = np.percentile(arm.seconds, [25, 75]) * 1e3
        median = float(np.median(arm.seconds))
        found.append((arm.name, arm.runs, 1e3 * median, f"{low:.0f} - {high:.0f}", f"{median / base:.3f}", arm.compile_seconds))
    return found
