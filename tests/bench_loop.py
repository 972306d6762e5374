"""What one step costs the host at 400 parameter arrays.

The loop trains a toy whose arrays are so small that the device has next to nothing to do. The device's own time is taken
from the same steps inside one `lax.scan`, where the host takes no part; what the loop needs beyond it is the host's:
queue, dispatch, reading the metrics of the step before, every tenth step a line of metrics.jsonl and TensorBoard.
Median over windows of ten steps; 'cpu' is the loop's thread alone, which other programs on the machine disturb less.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxsrc import optim, train
from jaxsrc import runtime as runtimes
from jaxsrc.plan import fresh_state, make_step
from jaxsrc.prefetch import place
from jaxsrc.report import Report
from jaxsrc.state import count
from tests import toy

BAR = 1.5  # milliseconds a step
SCAN = 100


def plan_of(device: str, steps: int, more: list[str]):
    words = ["toy.pad=394", f"toy.stages=[{steps}]", "toy.widths=[8,8]", "optim.warmup_steps=2"]
    machine = f"runtime={{device: {device}, compile_cache: ''}}"
    return toy.plan([*words, machine, "train={log_every: 10, checkpoint_every: 1000000}", *more])


def loop_times(device: str, steps: int, more: list[str]) -> tuple[float, float]:
    """Median milliseconds a step of the whole loop: wall clock, and CPU of its thread."""
    marks: list[tuple[float, float]] = []
    record = Report.step

    def marked(self: Report, *words) -> None:
        record(self, *words)
        marks.append((time.perf_counter(), time.thread_time()))

    Report.step = marked
    try:
        with tempfile.TemporaryDirectory() as folder:
            train.run(plan_of(device, steps, more), Path(folder) / "run", quiet=True)
    finally:
        Report.step = record
    wall, cpu = (1e3 / 10 * np.diff(np.array(marks[5:]), axis=0)).T  # the first windows hold the compilation
    return float(np.median(wall)), float(np.median(cpu))


def device_time(device: str, more: list[str]) -> float:
    """Milliseconds a step of the same program where the host takes no part: SCAN steps in one call."""
    plan = plan_of(device, SCAN, [*more, f"train.steps_per_call={SCAN}"])
    runtime = runtimes.start(plan.runtime)
    state, step = fresh_state(plan, runtime), make_step(plan, runtime)
    batches = [plan.experiment.batch_at(plan.seed, i) for i in range(SCAN)]
    placed = place(jax.tree.map(lambda *x: np.stack(x), *batches), runtime, leading=1)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        state, metrics = step(state, placed)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - start)
    return 1e3 * float(np.median(seconds[2:])) / SCAN


ROWS = {
    "as it is": (optim.PACKED, []),
    "with a moving average": (optim.PACKED, ["optim.ema=0.99"]),
    "optimiser not packed": (0, []),
}


def measure(name: str, device: str, steps: int) -> dict[str, float]:
    """One row, in milliseconds a step; in a process of its own, so that no row inherits another's heap."""
    optim.PACKED, more = ROWS[name]
    plan = plan_of(device, steps, more)
    state = fresh_state(plan, runtimes.start(plan.runtime))
    assert len(jax.tree.leaves(state.params)) == 400 and count(state.params) < 2000
    wall, cpu = loop_times(device, steps, more)
    return {"arrays": len(jax.tree.leaves(state)), "loop": wall, "cpu": cpu, "device": device_time(device, more)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/bench_loop", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000, help="steps of each loop (default 2000)")
    parser.add_argument("--device", choices=["cpu", "cuda", "metal"], default="cpu")
    parser.add_argument("--row", choices=list(ROWS), help="measure this one only and print it as JSON")
    args = parser.parse_args()
    if args.row:
        print(json.dumps(measure(args.row, args.device, args.steps)))
        return 0
    load = f"load of the machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    table = Table(title=f"milliseconds a step on {args.device}; {load}")
    for name in ("AdamW, 400 parameter arrays", "arrays in the state", "loop", "loop, cpu", "device", "host", "bar"):
        table.add_column(name, justify="left" if name.startswith("AdamW") else "right")
    met = True
    for name, (packed, _) in ROWS.items():
        command = [sys.executable, "-m", "tests.bench_loop", "--row", name, "--device", args.device, "--steps", str(args.steps)]
        row = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        host = row["loop"] - row["device"]
        met = met and (host <= BAR or packed == 0)
        verdict = "for comparison" if packed == 0 else f"{BAR}: {'met' if host <= BAR else 'missed'}"
        figures = (f"{v:.2f}" for v in (row["loop"], row["cpu"], row["device"], host))
        table.add_row(name, str(row["arrays"]), *figures, verdict)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
