"""The host's side of training: batch, step, report, checkpoint; no transfer that was not asked for."""

from __future__ import annotations

import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import numpy as np
from jax.experimental import multihost_utils
from pydantic import Field

from jaxsrc.checkpoint import Checkpoints, Meta
from jaxsrc.errors import RunError, UserError
from jaxsrc.memory import memory_warning
from jaxsrc.prefetch import prefetched, stay
from jaxsrc.protocol import Carried, Experiment, PyTree, Stage
from jaxsrc.report import Report
from jaxsrc.runtime import Runtime
from jaxsrc.state import MINIMUM_SCALE, TrainState
from jaxsrc.step import CompiledOnce, StepMetrics

Status = Literal["finished", "interrupted", "out of time"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All counts in steps. steps_per_call: steps in one scan; keep: checkpoints kept; best: validation metric whose
    largest value within the last stage that trains keeps a checkpoint of its own, '' for none."""

    steps_per_call: Annotated[int, Field(ge=1)] = 1
    log_every: Annotated[int, Field(ge=1)] = 10
    eval_every: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Annotated[int, Field(ge=1)] = 200
    keep: Annotated[int, Field(ge=1)] = 3
    best: str = ""


class Interrupt:
    """Ctrl-C and SIGTERM set a flag that the loop reads between steps; a second Ctrl-C stops at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._old: dict[int, Any] = {}

    def _handle(self, number: int, frame: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        os.write(2, b"stopping after what is in progress; Ctrl-C once more stops without saving\n")  # safe in a handler

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._old = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def total_steps(stages: Sequence[Stage]) -> int:
    return sum(s.steps for s in stages)


@dataclass
class Fit:
    """Everything that training needs beside its state; `run` trains from a state to the end, a signal or the budget.

    budget: seconds of this process until it stops.
    """

    experiment: Experiment
    make_step: Callable[[], CompiledOnce]
    config: TrainConfig
    runtime: Runtime
    report: Report
    checkpoints: Checkpoints
    resolved: dict
    seed: int
    git: str = ""
    budget: float = math.inf
    profile: bool = False

    def __post_init__(self) -> None:
        self.window: dict[str, list[float]] = {}
        self.best: float | None = None
        self.earlier = 0.0  # seconds of training before this process
        self.paused = 0.0  # seconds of this process that made no steps: compiling, validating
        self.metrics: dict[str, float] = {}
        self.index = 0  # of the stage in progress
        self.tracing = False

    def run(self, state: TrainState, step: int, meta: Meta | None) -> tuple[TrainState, Status]:
        """Train from `step`; the last state is on disk when this returns. meta: of the checkpoint that is resumed."""
        if meta is not None:
            self.window, self.best, self.earlier, self.index = dict(meta.window), meta.best, meta.seconds, meta.stage
        self.begun, self.first = time.monotonic(), step
        stages = self.experiment.stages
        self.total = total_steps(stages)
        self.ends = list(itertools.accumulate(s.steps for s in stages))
        status: Status = "finished"
        with Interrupt() as interrupt:
            self.report.progress(self.total, step)
            if step < self.total:
                self.report.say("reading the data")
            for index in range(self.index, len(stages)):
                self.index, stage, end = index, stages[index], self.ends[index]
                if step <= end - stage.steps:  # not resumed within the stage
                    self.report.stage(stage.name, step)
                    if stage.steps and self.index:
                        self.best = None  # another stage, other data: its scores cannot be compared with the last one's
                    if stage.steps or self.index == 0:
                        self._validate(state, step, "before")
                state, step, status = self._stage(state, step, end, stage, interrupt)
                if status != "finished":
                    break
                self._validate(state, step, "after")
            else:
                self.index = len(stages)
            self.save(state, step)
            self.checkpoints.wait()
            self.report.stop_progress()
        return state, status

    def _stage(
        self, state: TrainState, step: int, end: int, stage: Stage, interrupt: Interrupt
    ) -> tuple[TrainState, int, Status]:
        """Steps of one stage: dispatch a call, then read the metrics of the one before."""
        per, every = self.config.steps_per_call, self.config
        compiled = self.make_step()
        resident = stay(stage, self.runtime) if stage.steps and step < end else ()
        pending: tuple[int, StepMetrics] | None = None
        status: Status = "finished"
        with prefetched(stage, self.seed, range(step, end, per), per, self.runtime) as batches, self._guarded():
            for batch in batches:
                if not compiled.ready:
                    self._compile(compiled, stage, state, batch, resident)
                state, metrics = compiled(state, batch, resident)
                if pending is not None:
                    self._read(*pending)
                step += per
                pending = (step, metrics)
                self._trace(step)
                evaluate = every.eval_every > 0 and step % every.eval_every < per and step < end
                save = step % every.checkpoint_every < per
                if save or evaluate:
                    self._read(*pending)
                    pending = None
                    with jax.transfer_guard("allow"):
                        if evaluate:
                            self._validate(state, step, "")
                        if save:
                            self.save(state, step)
                status = self._stop(step, interrupt)
                if status != "finished":
                    break
            if pending is not None:
                self._read(*pending)
        if step == self.total and status == "out of time":
            status = "finished"
        return state, step, status

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """No implicit transfer inside; a profile in progress ends with the stage, however it ends."""
        try:
            with jax.transfer_guard("disallow"):
                yield
        finally:
            self._end_trace()

    def _compile(self, compiled: CompiledOnce, stage: Stage, state: TrainState, batch: PyTree, resident: PyTree) -> None:
        with self._pause(), jax.transfer_guard("allow"):
            compiled.compile(state, batch, resident)
        self.report.note(
            f"stage '{stage.name}': compiled in {compiled.compile_seconds:.1f} s, {compiled.flops / 1e9:.3g} GFLOP a "
            f"step, {compiled.memory_bytes / 2**20:.0f} MiB"
        )
        warning = memory_warning(compiled.memory_bytes, self.runtime)
        if warning:
            self.report.note(warning)

    @contextmanager
    def _pause(self) -> Iterator[None]:
        start = time.monotonic()
        yield
        self.paused += time.monotonic() - start

    def _stop(self, step: int, interrupt: Interrupt) -> Status:
        """Whether to stop after this step; several processes agree on it, at the steps that log."""
        wanted = 2 if interrupt.signal is not None else int(self.seconds - self.earlier > self.budget)
        if jax.process_count() > 1:
            if step % self.config.log_every >= self.config.steps_per_call:
                return "finished"
            with jax.transfer_guard("allow"):
                wanted = int(multihost_utils.process_allgather(np.int32(wanted)).max())
        return ("finished", "out of time", "interrupted")[wanted]

    @property
    def seconds(self) -> float:
        """Seconds of training, this process and earlier ones."""
        return self.earlier + time.monotonic() - self.begun

    def _read(self, step: int, metrics: StepMetrics) -> None:
        """Fetch metrics of the steps up to `step`, stop on NaN, and report at every log_every and at the end of a stage."""
        rows = jax.device_get(metrics).rows()
        for at, row in enumerate(rows, step - len(rows) + 1):
            self._check(at, row)
            for name, (value, weight) in row.items():
                kept = self.window.setdefault(name, [0.0, 0.0])
                kept[0] += value
                kept[1] += weight
            if at % self.config.log_every == 0 or at in self.ends:  # no mean is of two stages
                # 0 where every step was skipped; nothing where there is nothing more to measure: a sweep's frozen run
                self.metrics = {k: s / w if w else 0.0 for k, (s, w) in self.window.items() if w or "/" not in k}
                self.window = {}
                rate = (at - self.first) / max(self.seconds - self.earlier - self.paused, 1e-9)
                left = min((self.total - at) / rate, self.budget + self.earlier - self.seconds)
                self.report.step(at, self.total, self.metrics, self.seconds, rate, left)

    def _check(self, step: int, row: dict[str, tuple[float, float]]) -> None:
        bad = [name for name, (value, _) in row.items() if not math.isfinite(value)]
        if "overflow" in row and row["overflow"][0] and row["loss_scale"][0] <= MINIMUM_SCALE:
            bad.append("the gradient at the smallest loss scale")
        if bad:
            self.checkpoints.wait()
            last = self.checkpoints.on_disk
            good = f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet"
            raise RunError(
                f"expected finite numbers, got {', '.join(bad)} not finite at step {step}; {good}; lower "
                "optim.learning_rate or optim.clip_norm and start again in another --out"
            )

    def _validate(self, state: TrainState, step: int, when: Literal["before", "", "after"]) -> None:
        """Measure at a stage's start, within it or at its end; keep the best state of a stage that trains."""
        if isinstance(self.experiment, Carried):
            self.experiment.take(state.carry)
        with self._pause():
            metrics = self.experiment.validate(state.best_params, self.index)
        if not metrics:
            return
        self.report.scalars(step, metrics, self.seconds)
        value = metrics.get(self.config.best) if self.config.best else None
        if self.config.best and value is None:
            raise UserError(
                f"train.best: expected one of {', '.join(sorted(metrics))}, got '{self.config.best}'; "
                "name one of them, or '' for none"
            )
        competes = when != "before" and self.experiment.stages[self.index].steps > 0
        if competes and value is not None and (self.best is None or value > self.best):
            self.best = value
            self.checkpoints.save(state, self._meta(step, metrics), best=True)

    def _meta(self, step: int, metrics: dict[str, float]) -> Meta:
        return Meta(
            step=step,
            config=self.resolved,
            stage=self.index,
            records=self.report.lines,
            metrics=metrics,
            window={k: list(v) for k, v in self.window.items()},  # written later, while these go on
            best=self.best,
            seconds=self.seconds,
            git=self.git,
        )

    def save(self, state: TrainState, step: int) -> None:
        self.checkpoints.save(state, self._meta(step, self.metrics))

    def _trace(self, step: int) -> None:
        """Profile calls 10 to 20 of this process into RUN/profile."""
        done = (step - self.first) // self.config.steps_per_call
        if self.profile and done == 10:
            jax.profiler.start_trace(str(self.report.run / "profile"))
            self.profile, self.tracing = False, True
        elif self.tracing and done == 20:
            self._end_trace()

    def _end_trace(self) -> None:
        if self.tracing:
            jax.profiler.stop_trace()
            self.tracing = False
            self.report.note(f"profile: {self.report.run / 'profile'} (tensorboard or xprof opens it)")
