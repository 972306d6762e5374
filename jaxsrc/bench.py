"""`python -m jaxsrc.bench device|sweep|kan`: step times over devices and batches; an arm beside its rival in one process."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from jaxsrc import bench_device, bench_kan, bench_sweep, heap
from jaxsrc import config as configuration
from jaxsrc import runtime as runtimes
from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.experiment import RunConfig
from jaxsrc.plots.arms import seconds_plot
from jaxsrc.plots.devices import throughput
from jaxsrc.report import Report
from jaxsrc.runs import open_run
from jaxsrc.runtime import Precision, RuntimeConfig


def kan(args: argparse.Namespace) -> int:
    """The closed-form extension against gradients on a scale that the run did not train on."""
    runtime = runtimes.start(RuntimeConfig(device=args.device))
    opened = open_run(args.run)
    if not isinstance(opened.experiment, ArcExperiment):
        raise UserError(f"expected an ARC run, got {args.run} of another kind; train configs/arc_sheaf.yaml first")
    points, arms = bench_kan.measure(
        opened.experiment, opened.params, scale=args.scale, seeds=args.seeds, budget=args.seconds, limit=args.limit
    )
    report = Report(args.run)
    test = len(arms.tasks.test)
    report.table(
        f"extension against gradients, scale {args.scale}, {test} test tasks", bench_kan.COLUMNS, bench_kan.rows(points)
    )
    report.note(
        f"the encoder that extension, readout and fine-tune share was trained on smaller grids in {opened.meta.seconds:.0f} s"
    )
    compiled = ", ".join(f"{k} {v:.1f} s" for k, v in arms.compile_seconds.items())
    report.note(f"{runtime.describe()}; compilation, not counted above: {compiled}")
    file = args.run / "bench_kan.json"
    file.write_text(json.dumps({"device": runtime.describe(), "points": [asdict(p) for p in points]}, indent=1))
    picture = seconds_plot(points, test, args.run / "pictures" / "bench_kan.png")
    report.picture("exact match against seconds", picture)
    report.say(f"wrote {file} and {picture}")
    report.close("benchmarked")
    return DONE


def device(args: argparse.Namespace) -> int:
    """Step time and throughput of a configuration over devices, precisions and batch sizes."""
    config = configuration.load(RunConfig, args.config, args.override)
    precisions: list[Precision] = args.precision or ["float32"]
    points = bench_device.sweep(config, args.device or [], precisions, args.batch, args.seconds, args.steps)
    report = Report(args.out)
    report.table(f"{args.config}: one training step", bench_device.COLUMNS, bench_device.rows(points))
    for name, point in bench_device.best(points).items():
        report.note(f"{name}: most samples a second at batch {point.batch}, {point.precision}: {point.rate:.4g}")
    missing = [d for d in ("cpu", "cuda", "metal") if d not in bench_device.present()]
    report.note(f"not measured, since not on this machine: {', '.join(missing) or 'nothing'}")
    (args.out / "bench_device.json").write_text(json.dumps([asdict(p) for p in points], indent=1))
    report.picture("samples a second", throughput(points, args.out / "pictures" / "bench_device.png"))
    report.close("benchmarked")
    return DONE


def sweep(args: argparse.Namespace) -> int:
    """A sweep's step, side by side and in turn, against its runs one after another."""
    config = configuration.load(RunConfig, args.config, args.override)
    report = Report(args.out)
    rows = bench_sweep.rows(bench_sweep.measure(config, args.rounds))
    report.table(f"{args.config}: a step of every run", bench_sweep.COLUMNS, rows)
    report.close("benchmarked")
    return DONE


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxsrc.bench", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="BENCH")
    one = actions.add_parser("kan", help=kan.__doc__)
    one.add_argument("run", type=Path, metavar="RUN", help="a trained ARC run")
    one.add_argument("--scale", type=int, default=2, choices=range(1, 6), help="larger than the run trained on (default 2)")
    one.add_argument("--seeds", type=int, default=3)
    one.add_argument("--seconds", type=float, default=60.0, help="training time of each gradient arm and seed")
    one.add_argument("--limit", type=int, default=60, help="most tasks on each side of the split")
    one.add_argument("--device", choices=["auto", "cpu", "cuda", "metal"], default="auto")
    one.set_defaults(action=kan)
    two = actions.add_parser("device", help=device.__doc__)
    two.add_argument("config", nargs="?", default="configs/text_laptop.yaml", metavar="CONFIG")
    two.add_argument("override", nargs="*", metavar="key=value")
    two.add_argument("--device", action="append", choices=["cpu", "cuda", "metal"], help="(default: every one present)")
    two.add_argument("--precision", action="append", choices=["float32", "bfloat16", "float16"], help="(default float32)")
    two.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64])
    two.add_argument("--steps", type=int, default=30, help="timed steps of a point, at most (default 30)")
    two.add_argument("--seconds", type=float, default=20.0, help="time of a point after which it stops at 5 steps")
    two.add_argument("--out", type=Path, default=Path("runs/bench_device"))
    two.set_defaults(action=device)
    three = actions.add_parser("sweep", help=sweep.__doc__)
    three.add_argument("config", nargs="?", default="configs/text_sweep.yaml", metavar="CONFIG")
    three.add_argument("override", nargs="*", metavar="key=value")
    three.add_argument("--rounds", type=int, default=10, help="timed steps of each arm (default 10)")
    three.add_argument("--out", type=Path, default=Path("runs/bench_sweep"))
    three.set_defaults(action=sweep)
    args = parser.parse_args(arguments)
    return args.action(args)


if __name__ == "__main__":
    heap.keep_freed()
    command_line(main)
