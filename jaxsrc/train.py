"""`python -m jaxsrc.train [CONFIG] [key=value ...]`: train any configuration, resume it, or look at it first."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import jax

from jaxsrc import config as configuration
from jaxsrc import runtime as runtimes
from jaxsrc.checkpoint import Checkpoints, abstract, git_revision
from jaxsrc.errors import DONE, INTERRUPTED, UserError, command_line
from jaxsrc.loop import Fit, TrainConfig, total_steps
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.protocol import Experiment
from jaxsrc.report import Report
from jaxsrc.runtime import Runtime, RuntimeConfig
from jaxsrc.state import TrainState, bytes_of, count, init_state, parameter_table
from jaxsrc.step import CompiledOnce, several, train_step

DEFAULT = "configs/arc_sheaf.yaml"


@dataclasses.dataclass(frozen=True)
class Plan:
    """An experiment and how to train it; `resolved` is the whole configuration as plain data."""

    name: str
    seed: int
    experiment: Experiment
    optim: OptimConfig
    train: TrainConfig
    runtime: RuntimeConfig
    resolved: dict


def make_step(plan: Plan, runtime: Runtime) -> CompiledOnce:
    optimizer = make_optimizer(plan.optim, total_steps(plan.experiment.stages))
    step = train_step(plan.experiment, optimizer, runtime.compute_dtype, plan.optim.ema)
    return CompiledOnce(several(step) if plan.train.steps_per_call > 1 else step, "training step", donate=(0,))


def fresh(plan: Plan, runtime: Runtime) -> tuple[TrainState, TrainState]:
    """(a function's worth of initial state, jitted and placed; the same abstractly) without touching data."""
    optimizer = make_optimizer(plan.optim, total_steps(plan.experiment.stages))
    scaled = runtime.precision == "float16"
    init = lambda: init_state(plan.experiment, optimizer, plan.seed, ema=plan.optim.ema > 0, scaled=scaled)
    shapes = abstract(jax.eval_shape(init), runtime.replicated)
    return jax.jit(init, out_shardings=runtime.replicated)(), shapes


def check_folder(run: Path, resolved: dict) -> None:
    """Refuse a run folder that belongs to another configuration; where it runs may differ, what it is may not."""
    path = run / "config.yaml"
    if not path.exists():
        return
    there = configuration.read_yaml(path.read_text(), str(path))
    strip = lambda d: {k: v for k, v in d.items() if k != "runtime"} | {
        "precision": d.get("runtime", {}).get("precision")
    }
    found = configuration.differences(strip(resolved), strip(there))
    if found:
        raise UserError(
            f"expected {run} to belong to this configuration, got another one: {'; '.join(found[:6])}; "
            "choose another --out, or delete that folder"
        )


def run(
    plan: Plan, out: Path, *, budget: float = float("inf"), profile: bool = False, quiet: bool = False
) -> tuple[int, TrainState]:
    """Train or resume a plan in the folder `out`; returns the exit code and the last state."""
    runtime = runtimes.start(plan.runtime)
    check_folder(out, plan.resolved)
    out.mkdir(parents=True, exist_ok=True)
    if runtime.is_main:
        configuration_text = configuration.yaml.safe_dump(plan.resolved, sort_keys=False)
        (out / "config.yaml").write_text(configuration_text)
    report = Report(out if runtime.is_main else out / f"process_{jax.process_index()}", quiet=quiet or not runtime.is_main)
    checkpoints = Checkpoints(out, plan.train.keep)
    git = git_revision()
    state, shapes = fresh(plan, runtime)
    report.start(
        [
            f"run: {plan.name} in {out}" + (f", revision {git}" if git else ""),
            f"device: {runtime.describe()}",
            f"parameters: {count(state.params):,} ({bytes_of(state) / 2**20:.1f} MiB with the optimiser)",
        ],
        runtimes.environment() | {"device": runtime.describe(), "command": " ".join(sys.argv)},
    )
    step, meta = 0, checkpoints.meta()
    if meta is not None:
        state, meta, notes = checkpoints.restore(shapes)
        for note in notes:
            report.note(note)
        step = meta.step
        report.rewind(step)
        if meta.finished:
            report.note(f"this run is finished (step {step}); choose another --out to train again")
            return DONE, state
        report.note(f"resumed from step {step}")
    elif any((out / "checkpoints").iterdir()):
        raise UserError(
            f"expected a readable checkpoint in {out}/checkpoints, got only damaged ones; delete {out} and train again"
        )
    else:
        report.rewind(-1)
    fit = Fit(
        experiment=plan.experiment,
        make_step=lambda: make_step(plan, runtime),
        config=plan.train,
        runtime=runtime,
        report=report,
        checkpoints=checkpoints,
        resolved=plan.resolved,
        seed=plan.seed,
        git=git,
        budget=budget,
        profile=profile,
    )
    state, status = fit.run(state, step, meta)
    checkpoints.close()
    if status == "interrupted":
        report.note(f"interrupted and saved; to go on: python -m jaxsrc.train {out}/config.yaml --out {out}")
        report.close("interrupted")
        return INTERRUPTED, state
    plan.experiment.finish(state.best_params, report)
    report.close(status)
    return DONE, state


def dry_run(plan: Plan) -> None:
    """Print configuration, parameters, FLOPs and memory; reads no data."""
    runtime = runtimes.start(plan.runtime)
    print(configuration.yaml.safe_dump(plan.resolved, sort_keys=False))
    optimizer = make_optimizer(plan.optim, total_steps(plan.experiment.stages))
    scaled = runtime.precision == "float16"
    shapes = jax.eval_shape(
        lambda: init_state(plan.experiment, optimizer, plan.seed, ema=plan.optim.ema > 0, scaled=scaled)
    )
    rows = parameter_table(shapes.params)
    width = max(len(r[0]) for r in rows)
    for path, shape, number in rows:
        print(f"{path:<{width}}  {shape:<20} {number:>12,}")
    print(f"{'total':<{width}}  {'':<20} {count(shapes.params):>12,}")
    print(f"device: {runtime.describe()}")
    for index, stage in enumerate(plan.experiment.stages):
        if not stage.steps:
            print(f"stage '{stage.name}': closed form, no training step")
            continue
        compiled = make_step(plan, runtime)
        batch = plan.experiment.abstract_batch(index)
        if plan.train.steps_per_call > 1:
            batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((plan.train.steps_per_call, *x.shape), x.dtype), batch)
        compiled.compile(shapes, batch)
        flops = compiled.flops / plan.train.steps_per_call
        print(
            f"stage '{stage.name}': {stage.steps} steps, compiled in {compiled.compile_seconds:.1f} s, "
            f"{flops / 1e9:.3g} GFLOP a step, about {compiled.memory_bytes / 2**20:.0f} MiB"
        )
        warn_memory(compiled.memory_bytes, runtime)


def free_memory(runtime: Runtime) -> int | None:
    """Bytes free on the first device, or of the machine on a CPU; None if unknown."""
    stats = runtime.devices[0].memory_stats() if runtime.platform != "cpu" else None
    if stats:
        return int(stats["bytes_limit"] - stats["bytes_in_use"])
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def warn_memory(needed: int, runtime: Runtime) -> None:
    free = free_memory(runtime)
    if free is not None and needed > free:
        print(
            f"warning: expected to fit in {free / 2**30:.1f} GiB of free memory, the step needs about "
            f"{needed / 2**30:.1f} GiB; lower the batch size or the model's width",
            file=sys.stderr,
        )


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m jaxsrc.train",
        description="Train a configuration. The same command resumes a run that was stopped, to the same numbers.",
        epilog="example: python -m jaxsrc.train configs/arc_sheaf.yaml optim.learning_rate=1e-3 --out runs/slower",
    )
    found.add_argument("config", nargs="?", default=DEFAULT, metavar="CONFIG", help=f"YAML file (default {DEFAULT})")
    found.add_argument("override", nargs="*", metavar="key=value", help="change a value of the file: optim.ema=0.99")
    found.add_argument("--out", type=Path, help="run folder (default runs/NAME)")
    found.add_argument("--device", choices=["auto", "cpu", "cuda", "metal"], help="default: the configuration's")
    found.add_argument("--gpu-only", action="store_true", help="refuse to start without a GPU")
    found.add_argument("--precision", choices=["float32", "bfloat16", "float16"], help="of the computation")
    found.add_argument("--dry-run", action="store_true", help="show configuration, parameters, FLOPs and memory; no data")
    found.add_argument("--budget-seconds", type=float, default=float("inf"), metavar="S", help="stop in time and save")
    found.add_argument("--profile", action="store_true", help="write a trace of ten steps for TensorBoard or xprof")
    return found


def plan_of(path: str | Path, overrides: list[str]) -> Plan:
    """Read a configuration and build its experiment."""
    from jaxsrc.experiment import RunConfig, build

    loaded = configuration.load(RunConfig, path, overrides)
    resolved = configuration.to_dict(loaded)
    return Plan(loaded.name, loaded.seed, build(loaded), loaded.optim, loaded.train, loaded.runtime, resolved)


def main(arguments: list[str]) -> int:
    args = parser().parse_intermixed_args(arguments)
    overrides, path = list(args.override), args.config
    if "=" in path and not Path(path).exists():
        overrides, path = [path, *overrides], DEFAULT
    for name, value in (("device", args.device), ("gpu_only", args.gpu_only or None), ("precision", args.precision)):
        if value is not None:
            overrides.append(f"runtime.{name}={str(value).lower()}")
    if args.budget_seconds <= 0:
        raise UserError(f"--budget-seconds: expected a positive number, got {args.budget_seconds}")
    plan = plan_of(path, overrides)
    if args.dry_run:
        dry_run(plan)
        return DONE
    out = args.out or Path("runs") / plan.name
    return run(plan, out, budget=args.budget_seconds, profile=args.profile)[0]


if __name__ == "__main__":
    command_line(main)
