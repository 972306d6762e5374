"""Step time of a configuration over devices, precisions and batch sizes; no data are read."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxsrc import runtime as runtimes
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig, build, with_batch
from jaxsrc.plan import Plan, fresh_state, make_step
from jaxsrc.prefetch import place, whole
from jaxsrc.protocol import Experiment, PyTree
from jaxsrc.runtime import Precision, Runtime, RuntimeConfig
from jaxsrc.state import TrainState
from jaxsrc.step import CompiledOnce

COLUMNS = ("device", "precision", "batch", "step, ms", "middle half, ms", "samples/s", "ratio to CPU", "compile, s")
WARM = 3  # steps that are not timed
LEAST = 5


@dataclass(frozen=True)
class Point:
    """seconds of each timed step; empty where the step could not be run, and `why` says so."""

    device: str
    precision: str
    batch: int
    compile_seconds: float
    seconds: list[float]
    why: str = ""

    @property
    def median(self) -> float:
        return float(np.median(self.seconds)) if self.seconds else float("nan")

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.batch / self.median


class Ready(NamedTuple):
    """A compiled step with what it is called on; data are zeros."""

    step: CompiledOnce
    state: TrainState
    data: PyTree
    resident: PyTree


def ready(config: RunConfig, experiment: Experiment, runtime: Runtime) -> Ready:
    """The first stage's step of one batch, whatever `train.steps_per_call` says; no data are read."""
    train = dataclasses.replace(config.train, steps_per_call=1)
    plan = Plan(config.name, config.seed, experiment, config.optim, train, config.runtime, {})
    zeros = lambda shapes: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    stage = experiment.stages[0]
    resident = whole(zeros(stage.resident_shapes), runtime) if stage.resident else ()
    data = place(zeros(experiment.abstract_batch(0)), runtime)
    state, step = fresh_state(plan, runtime), make_step(plan, runtime)
    step.compile(state, data, resident)
    return Ready(step, state, data, resident)


def present() -> list[str]:
    """Devices of this machine, by the names that --device takes; the CPU last."""
    return [name for name in ("cuda", "metal", "cpu") if runtimes.find_devices(name)]


def measure(config: RunConfig, device: str, precision: Precision, batch: int, *, seconds: float, steps: int) -> Point:
    """Time at least `LEAST` steps of a configuration, up to `steps` or `seconds`."""
    sized = with_batch(config, batch)
    chosen = RuntimeConfig(device=device, precision=precision, compile_cache="")  # type: ignore[arg-type]
    if device == "metal" and precision != "float32":
        return Point(device, precision, batch, 0.0, [], "float32 only")
    runtime = runtimes.start(chosen)
    experiment = build(sized)
    try:
        step, state, data, resident = ready(sized, experiment, runtime)
        found: list[float] = []
        begun = time.perf_counter()
        for index in range(WARM + steps):
            start = time.perf_counter()
            state, metrics = step(state, data, resident)
            jax.block_until_ready((state, metrics))
            if index >= WARM:
                found.append(time.perf_counter() - start)
            if len(found) >= LEAST and time.perf_counter() - begun > seconds:
                break
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Point(device, precision, batch, 0.0, [], "out of memory")
    return Point(device, precision, batch, step.compile_seconds, found)


def rows(points: Sequence[Point]) -> list[tuple]:
    """One row a point; the ratio is of samples a second, to the CPU's at the same batch and precision, "-" if there is none."""
    found = []
    for p in points:
        if not p.seconds:
            found.append((p.device, p.precision, p.batch, p.why, "", "", "", ""))
            continue
        cpu = [q.rate for q in points if q.device == "cpu" and q.batch == p.batch and q.precision == p.precision and q.seconds]
        low, high = np.percentile(p.seconds, [25, 75]) * 1e3
        ratio = f"{p.rate / cpu[0]:.2f}" if cpu else "-"
        half = f"{low:.2f} - {high:.2f}"
        found.append((p.device, p.precision, p.batch, 1e3 * p.median, half, p.rate, ratio, p.compile_seconds))
    return found


def best(points: Sequence[Point]) -> dict[str, Point]:
    """Most samples a second of each device, the smallest batch within 2 % of it."""
    found = {}
    for device in dict.fromkeys(p.device for p in points if p.seconds):
        mine = [p for p in points if p.device == device and p.seconds]
        top = max(p.rate for p in mine)
        found[device] = min((p for p in mine if p.rate >= 0.98 * top), key=lambda p: p.batch)
    return found


def sweep(
    config: RunConfig,
    devices: list[str],
    precisions: list[Precision],
    batches: list[int],
    seconds: float,
    steps: int,
    say: Callable[[str], None],
) -> list[Point]:
    """All points, device by device; `say` hears each before it is measured.

    Errors: UserError for a device that is not here, or a batch below 1.
    """
    here = present()
    missing = [d for d in devices if d not in here]
    if missing:
        raise UserError(f"--device: expected among {', '.join(here)}, which this machine has, got {', '.join(missing)}")
    if min(batches) < 1:
        raise UserError(f"--batch: expected at least 1, got {min(batches)}")
    found = []
    for device, precision, batch in itertools.product(devices or here, precisions, batches):
        say(f"{device}, {precision}, batch {batch}: compiling, then at most {steps} steps")
        found.append(measure(config, device, precision, batch, seconds=seconds, steps=steps))
    return found
