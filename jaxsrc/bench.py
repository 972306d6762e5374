"""`python -m jaxsrc.bench device|sweep|gate|rate|kan|ablate`: step times, and each idea beside its rivals in one process."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from jaxsrc import bench_ablate, bench_device, bench_gate, bench_kan, bench_rate, bench_sweep, heap
from jaxsrc import config as configuration
from jaxsrc import runtime as runtimes
from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.experiment import RunConfig
from jaxsrc.gate_config import SundewGate
from jaxsrc.image_experiment import ImageConfig
from jaxsrc.plots.arms import seconds_plot
from jaxsrc.plots.devices import throughput
from jaxsrc.plots.gate_bench import response
from jaxsrc.report import Report
from jaxsrc.runs import open_run
from jaxsrc.runtime import Precision, RuntimeConfig


def _positive(args: argparse.Namespace, *names: str) -> None:
    """UserError for an option that is not above zero."""
    for name in names:
        if not getattr(args, name) > 0:
            raise UserError(f"--{name}: expected a number above 0, got {getattr(args, name)}; raise it")


def kan(args: argparse.Namespace) -> int:
    """The closed-form extension against gradients on a scale that the run did not train on."""
    _positive(args, "seeds", "seconds", "limit")
    runtime = runtimes.start(RuntimeConfig(device=args.device))
    opened = open_run(args.run)
    if not isinstance(opened.experiment, ArcExperiment):
        raise UserError(f"expected an ARC run, got {args.run} of another kind; train configs/arc_sheaf.yaml first")
    report = Report(args.run)
    sizes = {"scale": args.scale, "seeds": args.seeds, "budget": args.seconds, "limit": args.limit}
    points, arms = bench_kan.measure(opened.experiment, opened.params, **sizes, say=report.say)
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
    _positive(args, "steps", "seconds")
    config = configuration.load(RunConfig, args.config, args.override)
    precisions: list[Precision] = args.precision or ["float32"]
    points = bench_device.sweep(config, args.device or [], precisions, args.batch, args.seconds, args.steps, print)
    report = Report(args.out)
    report.table(f"{args.config}: one training step", bench_device.COLUMNS, bench_device.rows(points))
    for name, point in bench_device.best(points).items():
        report.note(f"{name}: most samples a second at batch {point.batch}, {point.precision}: {point.rate:.4g}")
    missing = [d for d in ("cpu", "cuda", "metal") if d not in bench_device.present()]
    report.note(f"not measured, since not on this machine: {', '.join(missing) or 'nothing'}")
    (args.out / "bench_device.json").write_text(json.dumps([asdict(p) for p in points], indent=1))
    if any(p.seconds for p in points):
        report.picture("samples a second", throughput(points, args.out / "pictures" / "bench_device.png"))
    report.close("benchmarked")
    return DONE


def sweep(args: argparse.Namespace) -> int:
    """A sweep's step, side by side and in turn, against its runs one after another."""
    _positive(args, "rounds")
    config = configuration.load(RunConfig, args.config, args.override)
    report = Report(args.out)
    rows = bench_sweep.rows(bench_sweep.measure(config, args.rounds))
    report.table(f"{args.config}: a step of every run", bench_sweep.COLUMNS, rows)
    report.close("benchmarked")
    return DONE


def gate(args: argparse.Namespace) -> int:
    """Every way of choosing samples against plain training: accuracy at equal time and at equal epochs, and all costs."""
    config = configuration.load(RunConfig, args.config, args.override)
    if not isinstance(config.experiment, ImageConfig):
        raise UserError(f"expected a configuration of kind image, got {args.config}; take configs/digits_sundew.yaml")
    images = config.experiment
    runtime = runtimes.start(config.runtime)
    plan = bench_gate.Plan(images, config.optim, args.seconds, args.epochs, args.seeds, tuple(args.noise))
    plan.check()
    sundew = config.gate if isinstance(config.gate, SundewGate) else SundewGate()
    gates = bench_gate.arms(args.rate, sundew, images.model.exit_layer > 0)
    unknown = [a for a in args.arms or [] if a not in gates]
    if unknown:
        raise UserError(f"--arms: expected among {', '.join(gates)}; got {', '.join(unknown)}")
    gates = {n: g for n, g in gates.items() if not args.arms or n in args.arms or n == "dense"}
    report = Report(args.out)
    report.note(f"{args.config}, rate {args.rate:g}, {args.seeds} seeds; {runtime.describe()}")
    results = bench_gate.compare(plan, gates, runtime, report)
    if args.frontier:
        bench_gate.frontier(plan, args.frontier, sundew, runtime, report)
    (args.out / "bench_gate.json").write_text(json.dumps([asdict(r) for r in results], indent=1))
    report.close("benchmarked")
    return DONE


def rate(args: argparse.Namespace) -> int:
    """How fast controllers bring the activation rate to its target, from a cold start and after the scores jump."""
    runtimes.start(RuntimeConfig(device="cpu"))
    report = Report(args.out)
    table = bench_rate.table(args.targets, args.batches)
    report.table("batches until every window of 50 keeps within 10 % of the target", bench_rate.COLUMNS, table)
    series = bench_rate.responses(args.target, args.batch)
    picture = response(series, args.target, bench_rate.SHIFT, bench_rate.WINDOW, args.out / "pictures" / "step_response.png")
    report.picture("step response", picture)
    report.close("benchmarked")
    return DONE


def ablate(args: argparse.Namespace) -> int:
    """The hybrid with its features as they are, zeroed, shuffled, pooled, aligned, crossed and absent, beside baselines."""
    config = configuration.load(RunConfig, args.config, args.override)
    report = Report(args.out)
    rows = bench_ablate.measure(config, args.steps, args.out, report.say, tuple(args.arm or ()))
    report.table(f"{args.config}, {args.steps or 'all'} steps an arm, voted answers", bench_ablate.COLUMNS, rows)
    report.close("benchmarked")
    return DONE


def _configured(parser: argparse.ArgumentParser, default: str, out: str) -> None:
    """The arguments of a bench that measures a configuration."""
    parser.add_argument("config", nargs="?", default=default, metavar="CONFIG", help=f"YAML file (default {default})")
    parser.add_argument("override", nargs="*", metavar="key=value", help="change a value of the file")
    _out(parser, out)


def _out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(default), metavar="DIR", help=f"report and pictures (default {default})")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxsrc.bench", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="BENCH")
    one = actions.add_parser("kan", help=kan.__doc__)
    one.add_argument("run", type=Path, metavar="RUN", help="a trained ARC run")
    one.add_argument("--scale", type=int, default=2, choices=range(1, 6), help="larger than the run trained on (default 2)")
    one.add_argument("--seeds", type=int, default=3, help="of the gradient arms (default 3)")
    one.add_argument("--seconds", type=float, default=60.0, help="training time of each gradient arm and seed (default 60)")
    one.add_argument("--limit", type=int, default=60, help="most tasks on each side of the split (default 60)")
    one.add_argument("--device", choices=["auto", "cpu", "cuda", "metal"], default="auto", help="(default auto)")
    one.set_defaults(action=kan)
    two = actions.add_parser("device", help=device.__doc__)
    _configured(two, "configs/text_laptop.yaml", "runs/bench_device")
    two.add_argument("--device", action="append", choices=["cpu", "cuda", "metal"], help="(default: every one present)")
    two.add_argument("--precision", action="append", choices=["float32", "bfloat16", "float16"], help="(default float32)")
    two.add_argument("--batch", type=int, nargs="+", default=[1, 4, 16, 64], help="(default 1 4 16 64)")
    two.add_argument("--steps", type=int, default=30, help="timed steps of a point, at most (default 30)")
    two.add_argument("--seconds", type=float, default=20.0, help="of a point, after which 5 timed steps will do (default 20)")
    two.set_defaults(action=device)
    three = actions.add_parser("sweep", help=sweep.__doc__)
    _configured(three, "configs/text_sweep.yaml", "runs/bench_sweep")
    three.add_argument("--rounds", type=int, default=10, help="timed steps of each arm (default 10)")
    three.set_defaults(action=sweep)
    four = actions.add_parser("gate", help=gate.__doc__)
    _configured(four, "configs/digits_sundew.yaml", "runs/bench_gate")
    four.add_argument("--rate", type=float, default=0.1, help="of every arm that has one (default 0.1)")
    four.add_argument("--seeds", type=int, default=5)
    four.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.1, 0.2], help="shares of wrong labels")
    four.add_argument("--seconds", type=float, default=3.0, help="of the wall-clock half, 0 for none (default 3)")
    four.add_argument("--epochs", type=float, default=25.0, help="of the other half, 0 for none (default 25)")
    four.add_argument("--arms", nargs="+", metavar="ARM", help="only these, and dense (default: all)")
    four.add_argument("--frontier", type=float, nargs="*", default=[0.06, 0.1, 0.2, 0.4], metavar="RATE")
    four.set_defaults(action=gate)
    five = actions.add_parser("rate", help=rate.__doc__)
    five.add_argument("--targets", type=float, nargs="+", default=[0.01, 0.06, 0.1, 0.2, 0.5, 0.9])
    five.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    five.add_argument("--target", type=float, default=0.1, help="of the picture (default 0.1)")
    five.add_argument("--batch", type=int, default=128, help="of the picture (default 128)")
    _out(five, "runs/bench_rate")
    five.set_defaults(action=rate)
    last = actions.add_parser("ablate", help=ablate.__doc__)
    _configured(last, "configs/hybrid_tiny.yaml", "runs/bench_ablate")
    last.add_argument("--steps", type=int, default=0, help="of each arm (default: the configuration's)")
    last.add_argument("--arm", action="append", choices=list(bench_ablate.ARMS), help="(default: all)")
    last.set_defaults(action=ablate)
    args = parser.parse_args(arguments)
    return args.action(args)


if __name__ == "__main__":
    heap.keep_freed()
    command_line(main)
