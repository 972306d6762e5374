"""`python -m jaxsrc.bench kan RUN`: measurements that pair an arm with its rival in one process."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from jaxsrc import bench_kan
from jaxsrc import runtime as runtimes
from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.plots.arms import seconds_plot
from jaxsrc.report import Report
from jaxsrc.runs import open_run
from jaxsrc.runtime import RuntimeConfig


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
    compiled = ", ".join(f"{k} {v:.1f} s" for k, v in arms.compile_seconds.items())
    report.note(f"{runtime.describe()}; compilation, not counted above: {compiled}")
    file = args.run / "bench_kan.json"
    file.write_text(json.dumps({"device": runtime.describe(), "points": [asdict(p) for p in points]}, indent=1))
    picture = seconds_plot(points, test, args.run / "pictures" / "bench_kan.png")
    report.picture("exact match against seconds", picture)
    report.say(f"wrote {file} and {picture}")
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
    args = parser.parse_args(arguments)
    return args.action(args)


if __name__ == "__main__":
    command_line(main)
