"""The host's side of training: batch, step, report, checkpoint; no transfer that was not asked for."""

from __future__ import annotations

import itertools
import math
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
from pydantic import Field

from jaxsrc.checkpoint import Checkpoints, Meta
from jaxsrc.errors import RunError, UserError
from jaxsrc.protocol import Experiment, PyTree, Stage
from jaxsrc.report import Report
from jaxsrc.runtime import Runtime
from jaxsrc.state import MINIMUM_SCALE, TrainState
from jaxsrc.step import CompiledOnce


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All counts in steps. steps_per_call: steps in one scan; keep: checkpoints kept; best: validation metric whose
    largest value keeps a checkpoint of its own, '' for none."""

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

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._old = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)


def stage_of(stages: Sequence[Stage], step: int) -> int:
    """Index of the stage that the step after `step` belongs to; the last one when all are done."""
    ends = list(itertools.accumulate(s.steps for s in stages))
    return next((i for i, end in enumerate(ends) if step < end), len(stages) - 1)


def total_steps(stages: Sequence[Stage]) -> int:
    return sum(s.steps for s in stages)


def place(batch: PyTree, runtime: Runtime, leading: int = 0) -> PyTree:
    """Put a host batch on the devices, its batch axis split over them; every process holds the whole batch."""
    sharding = runtime.batch_sharding(leading)
    devices = len(runtime.devices)

    def put(x: np.ndarray) -> jax.Array:
        x = np.asarray(x)
        if x.shape[leading] % devices:
            raise UserError(
                f"expected a batch that {devices} devices divide, got {x.shape[leading]}; change the batch size"
            )
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, batch)


@contextmanager
def prefetched(stage: Stage, seed: int, steps: range, per_call: int, runtime: Runtime) -> Iterator[Iterator[PyTree]]:
    """Batches of the steps, made and placed one ahead on a thread."""
    ready: queue.Queue[Any] = queue.Queue(maxsize=2)
    stop = threading.Event()

    def make(step: int) -> PyTree:
        if per_call == 1:
            return place(stage.batch_at(seed, step), runtime)
        batches = [stage.batch_at(seed, step + i) for i in range(per_call)]
        return place(jax.tree.map(lambda *x: np.stack(x), *batches), runtime, leading=1)

    def work() -> None:
        for step in steps:
            try:
                item: Any = make(step)
            except Exception as error:  # raised again where the batch is asked for
                item = error
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if stop.is_set() or isinstance(item, Exception):
                return

    thread = threading.Thread(target=work, daemon=True)
    thread.start()

    def batches() -> Iterator[PyTree]:
        for _ in steps:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item

    try:
        yield batches()
    finally:
        stop.set()
        thread.join(timeout=10)


@dataclass
class Fit:
    """Everything that training needs beside its state; `run` trains from a state to the end, a signal or the budget."""

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
        self.metrics: dict[str, float] = {}
        for stage in self.experiment.stages:
            if stage.steps % self.config.steps_per_call:
                raise UserError(
                    f"train.steps_per_call: expected a divisor of the {stage.steps} steps of stage '{stage.name}', got "
                    f"{self.config.steps_per_call}; change one of them"
                )

    def run(self, state: TrainState, step: int, meta: Meta | None) -> tuple[TrainState, str]:
        """Train from `step`; returns the state and 'finished', 'interrupted' or 'out of time'."""
        if meta is not None:
            self.window, self.best, self.earlier = dict(meta.window), meta.best, meta.seconds
        self.begun, self.first = time.monotonic(), step
        stages = self.experiment.stages
        self.total = total_steps(stages)
        ends = list(itertools.accumulate(s.steps for s in stages))
        status = "finished"
        with Interrupt() as interrupt:
            self.report.progress(self.total, step)
            for index, stage in enumerate(stages):
                if step > ends[index] or (step == ends[index] and stage.steps) or (not stage.steps and step > ends[index]):
                    continue
                if step == ends[index] - stage.steps:
                    self.report.stage(stage.name, step)
                    if index == 0 or stage.steps:
                        self._validate(state, step, index, "before")
                state, step, status = self._stage(state, step, ends[index], stage, index, interrupt)
                if status != "finished":
                    break
                self._validate(state, step, index, "after")
            self.save(state, step, finished=status == "finished")
            self.checkpoints.wait()
            self.report.stop_progress()
            self.signal = interrupt.signal
        return state, status

    def _stage(
        self, state: TrainState, step: int, end: int, stage: Stage, index: int, interrupt: Interrupt
    ) -> tuple[TrainState, int, str]:
        """Steps of one stage: dispatch a call, then read the metrics of the one before."""
        per, every = self.config.steps_per_call, self.config
        compiled = self.make_step()
        pending: tuple[int, PyTree] | None = None
        status = "finished"
        with prefetched(stage, self.seed, range(step, end, per), per, self.runtime) as batches:
            for batch in batches:
                if compiled.flops == 0 and compiled.compile_seconds == 0:
                    compiled.compile(state, batch)
                    self.report.note(
                        f"stage '{stage.name}': compiled in {compiled.compile_seconds:.1f} s, "
                        f"{compiled.flops / per / 1e9:.3g} GFLOP a step, {compiled.memory_bytes / 2**20:.0f} MiB"
                    )
                with jax.transfer_guard("disallow"):
                    state, metrics = compiled(state, batch)
                if pending is not None:
                    self._read(*pending)
                step += per
                pending = (step, metrics)
                self._trace(step)
                due = lambda n, at=step: n > 0 and at % n < per
                if due(every.checkpoint_every) or (due(every.eval_every) and step < end):
                    self._read(*pending)
                    pending = None
                    if due(every.eval_every) and step < end:
                        self._validate(state, step, index, "")
                    if due(every.checkpoint_every):
                        self.save(state, step)
                if interrupt.signal is not None:
                    status = "interrupted"
                elif self.seconds > self.budget + self.earlier:
                    status = "out of time"
                if status != "finished":
                    break
        if pending is not None:
            self._read(*pending)
        if step == end:
            status = "finished" if status == "out of time" and end == self.total else status
        return state, step, status

    @property
    def seconds(self) -> float:
        """Seconds of training, this process and earlier ones."""
        return self.earlier + time.monotonic() - self.begun

    def _read(self, step: int, metrics: PyTree) -> None:
        """Fetch metrics of the steps up to `step`, stop on NaN, and report at every log_every."""
        host = jax.device_get(metrics)
        per = self.config.steps_per_call
        for i in range(per):
            at = step - per + 1 + i
            row = {k: (float(s[i]), float(w[i])) if per > 1 else (float(s), float(w)) for k, (s, w) in host.items()}
            self._check(at, row)
            for name, (value, weight) in row.items():
                kept = self.window.setdefault(name, [0.0, 0.0])
                kept[0] += value
                kept[1] += weight
            if at % self.config.log_every == 0 or at == self.total:
                self.metrics = {k: s / w if w else 0.0 for k, (s, w) in self.window.items()}
                self.window = {}
                rate = (at - self.first) / max(time.monotonic() - self.begun, 1e-9)
                left = min((self.total - at) / rate, self.budget + self.earlier - self.seconds)
                self.report.step(at, self.total, self.metrics, self.seconds, rate, left)

    def _check(self, step: int, row: dict[str, tuple[float, float]]) -> None:
        bad = [name for name, (value, _) in row.items() if not math.isfinite(value)]
        scale = row.get("loss_scale")
        if scale is not None and scale[0] <= MINIMUM_SCALE and row["overflow"][0]:
            bad.append("gradient at the smallest loss scale")
        if bad:
            last = self.checkpoints.latest
            good = f"the last good checkpoint is step {last}" if last is not None else "there is no checkpoint yet"
            raise RunError(
                f"expected finite numbers, got {', '.join(bad)} not finite at step {step}; {good}; lower "
                "optim.learning_rate or optim.clip_norm and start again in another --out"
            )

    def _validate(self, state: TrainState, step: int, index: int, when: str) -> None:
        metrics = self.experiment.validate(state.best_params, index)
        if not metrics:
            return
        self.report.scalars(step, metrics, self.seconds)
        value = metrics.get(self.config.best) if self.config.best else None
        if when != "before" and value is not None and (self.best is None or value > self.best):
            self.best = value
            self.checkpoints.save(state, self._meta(step, metrics, False), best=True)

    def _meta(self, step: int, metrics: dict[str, float], finished: bool) -> Meta:
        return Meta(
            step=step,
            config=self.resolved,
            metrics=metrics,
            window=self.window,
            best=self.best,
            seconds=self.seconds,
            finished=finished,
            git=self.git,
        )

    def save(self, state: TrainState, step: int, *, finished: bool = False) -> None:
        self.checkpoints.save(state, self._meta(step, self.metrics, finished))

    def _trace(self, step: int) -> None:
        """Profile steps 10 to 20 of this process into RUN/profile."""
        if not self.profile:
            return
        done = (step - self.first) // self.config.steps_per_call
        if done == 10:
            jax.profiler.start_trace(str(self.report.run / "profile"))
        elif done == 20:
            jax.profiler.stop_trace()
            self.report.note(f"profile of ten calls: {self.report.run / 'profile'} (tensorboard or xprof opens it)")
            self.profile = False
