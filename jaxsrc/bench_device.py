"""Step time of a configuration over devices, precisions and batch sizes; no data are read."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxsrc import runtime as runtimes
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig, build, with_batch
from jaxsrc.plan import Plan, fresh_state, make_step
from jaxsrc.prefetch import place, stay
from jaxsrc.runtime import Precision, RuntimeConfig

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
    plan = Plan(sized.name, sized.seed, experiment, sized.optim, dataclasses.replace(sized.train, steps_per_call=1), chosen, {})
    try:
        state = fresh_state(plan, runtime)
        zeros = lambda shapes: jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        data = place(zeros(experiment.abstract_batch(0)), runtime)
        stage = experiment.stages[0]
        fixed = dataclasses.replace(stage, resident=lambda: zeros(stage.resident_shapes)) if stage.resident else stage
        resident = stay(fixed, runtime)
        step = make_step(plan, runtime)
        step.compile(state, data, resident)
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
    """One row a point; the ratio is of samples a second, to the CPU's best with the same precision, or any if there is none."""
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
    config: RunConfig, devices: list[str], precisions: list[Precision], batches: list[int], seconds: float, steps: int
) -> list[Point]:
    """All points, device by device.

    Errors: UserError for a device that is not here, or a batch below 1.
    """
    here = present()
    missing = [d for d in devices if d not in here]
    if missing:
        raise UserError(f"--device: expected among {', '.join(here)}, which this machine has, got {', '.join(missing)}")
    if min(batches) < 1:
        raise UserError(f"--batch: expected at least 1, got {min(batches)}")
    jnp.zeros(())  # the backend starts before anything is timed
    return [
        measure(config, d, p, b, seconds=seconds, steps=steps) for d in devices or here for p in precisions for b in batches
    ]
