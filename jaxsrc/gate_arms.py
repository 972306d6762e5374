"""One training of one arm of a gate's benchmark: compiled once, run for any seed and any noise in the labels."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxsrc.data import images
from jaxsrc.gate_config import Gate
from jaxsrc.gated import GatedExperiment
from jaxsrc.image_experiment import ImageConfig, ImageExamples
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.prefetch import place, whole
from jaxsrc.protocol import PyTree
from jaxsrc.runtime import Runtime
from jaxsrc.state import TrainState, init_state
from jaxsrc.step import CompiledOnce, several, train_step

CALL = 10  # steps in one scan


@dataclass(frozen=True)
class Result:
    """One training. seconds: of its steps; trained, scored, passed: samples; never: share of samples never trained on."""

    arm: str
    budget: str
    noise: float
    seed: int
    steps: int
    accuracy: float
    loss: float
    seconds: float
    trained: float
    scored: float
    passed: float
    never: float

    @property
    def rate(self) -> float:
        return self.trained / self.passed


def examples_of(config: ImageConfig, steps: int = 0) -> ImageExamples:
    """Pictures with right labels, however noisy the configuration's are."""
    return ImageExamples(replace(config, data=replace(config.data, label_noise=0.0), steps=steps))


class Arm:
    """An arm at a number of steps, its schedule decayed at the last of them."""

    def __init__(self, name: str, gate: Gate, config: ImageConfig, optim: OptimConfig, runtime: Runtime, steps: int = 0):
        first = GatedExperiment(examples_of(config), gate)
        self.steps = -(-(steps or first.sizes.steps) // CALL) * CALL
        self.name, self.gate, self.runtime = name, gate, runtime
        self.experiment = GatedExperiment(examples_of(config, self.steps), gate)
        warm = min(optim.warmup_steps, self.steps // 5)
        optimizer = make_optimizer(replace(optim, warmup_steps=warm, ema=0.0), self.steps)
        step = train_step(self.experiment, optimizer, np.dtype(np.float32), 0.0)
        self._init = jax.jit(lambda seed: init_state(self.experiment, optimizer, seed, ema=False, scaled=False))
        self._step = CompiledOnce(
            several(step), f"step of {name}", ("state", "batches", "resident"), donate=(0,), out=runtime.replicated
        )

    def _batches(self, seed: int, step: int) -> PyTree:
        found = [self.experiment.batch_at(seed, step + i) for i in range(CALL)]
        return place(jax.tree.map(lambda *x: np.stack(x), *found), self.runtime, leading=1)

    def _start(self, resident: PyTree, seed: int) -> TrainState:
        """A fresh state, the step compiled."""
        state = jax.device_put(self._init(jnp.int32(seed)), self.runtime.replicated)
        if not self._step.ready:
            self._step.compile(state, self._batches(0, 0), resident)
        return jax.block_until_ready(state)

    def _middle(self, resident: PyTree) -> TrainState:
        """A fresh state past the warm-up, the step compiled."""
        state = self._start(resident, 0)
        middle = state.carry._replace(step=jnp.int32(self.steps // 2))
        return replace(state, carry=jax.device_put(middle, self.runtime.replicated))

    def seconds_an_epoch(self, resident: PyTree) -> float:
        """Time of an epoch's steps past the warm-up, their batches made and moved within it; whole calls, scaled to an epoch."""
        state = jax.block_until_ready(self._middle(resident))
        calls = max(round(self.experiment.per_epoch / CALL), 1)
        start = time.perf_counter()
        for i in range(calls):
            state, _ = self._step(state, self._batches(0, i * CALL), resident)
        jax.block_until_ready(state)
        return (time.perf_counter() - start) * self.experiment.per_epoch / (calls * CALL)

    def seconds_a_step(self, resident: PyTree, calls: int) -> float:
        """The least time of a call, by step, past the warm-up."""
        state = self._middle(resident)
        best = float("inf")
        for i in range(calls):
            batches = self._batches(0, i * CALL)
            jax.block_until_ready((state, batches))
            start = time.perf_counter()
            state, _ = self._step(state, batches, resident)
            jax.block_until_ready(state)
            best = min(best, time.perf_counter() - start)
        return best / CALL

    def train(self, data: ImageExamples, resident: PyTree, seed: int, budget: str, noise: float) -> Result:
        """From scratch to the last step, then the test; the seed draws which share `noise` of the labels is wrong, too."""
        if noise:
            labels = images.noisy(data.data.clean, noise, seed).astype(np.int32)
            resident = {**resident, **whole({"labels": labels}, self.runtime)}
        state = self._start(resident, seed)
        start = time.perf_counter()
        for step in range(0, self.steps, CALL):
            state, _ = self._step(state, self._batches(seed, step), resident)
        jax.block_until_ready(state)
        seconds = time.perf_counter() - start
        loss, right = data.scores(state.params)
        gate = state.carry
        return Result(
            arm=self.name,
            budget=budget,
            noise=noise,
            seed=seed,
            steps=self.steps,
            accuracy=float(right.mean()),
            loss=loss,
            seconds=seconds,
            trained=float(gate.trained),
            scored=float(gate.scored),
            passed=self.steps * self.experiment.sizes.passed,
            never=float((np.asarray(gate.times) == 0).mean()),
        )
