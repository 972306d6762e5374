"""`python -m jaxsrc.train [CONFIG] [key=value ...]`: train any configuration, resume it, or look at it first."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxsrc import config as configuration
from jaxsrc import heap
from jaxsrc import runtime as runtimes
from jaxsrc.checkpoint import Checkpoints, Meta, git_revision
from jaxsrc.dry_run import dry_run
from jaxsrc.errors import DONE, FULL, INTERRUPTED, ConfigError, RunError, UserError, command_line
from jaxsrc.loop import Fit, total_steps
from jaxsrc.plan import Plan, abstract_state, fresh_state, make_step
from jaxsrc.protocol import Carried
from jaxsrc.report import Report
from jaxsrc.runtime import Runtime
from jaxsrc.state import TrainState, bytes_of, count

DEFAULT = "configs/arc_sheaf.yaml"


def _identity(resolved: dict) -> dict:
    """What makes a run the same run: everything but the machine; precision is of the numbers, not of the machine."""
    return {**resolved, "runtime": {"precision": (resolved.get("runtime") or {}).get("precision")}}


def _filled(saved: dict) -> dict:
    """A configuration with today's defaults for keys that it was saved without; as it is where it does not read."""
    from jaxsrc.experiment import RunConfig

    try:
        return configuration.to_dict(configuration.from_dict(RunConfig, saved))
    except ConfigError:
        return saved


def check_folder(run: Path, resolved: dict) -> None:
    """Refuse a run folder that belongs to another configuration; where it runs may differ, what it is may not.

    A folder in which nothing was measured or saved yet, where the data were not found for example, belongs to none.
    """
    metrics = run / "metrics.jsonl"
    begun = any((run / "checkpoints").glob("*")) or (metrics.exists() and metrics.stat().st_size > 0)
    if begun and (run / "config.yaml").exists():
        _refuse_other(run, resolved, configuration.read(run / "config.yaml"))


def _refuse_other(run: Path, resolved: dict, saved: dict) -> None:
    found = configuration.differences(_identity(_filled(resolved)), _identity(_filled(saved)))
    if found:
        more = f" (and {len(found) - 6} more)" if len(found) > 6 else ""
        raise UserError(
            f"expected {run} to belong to this configuration, got another one: {'; '.join(found[:6])}{more}; "
            "choose another --out, or delete that folder"
        )


def _open_folder(out: Path, plan: Plan) -> None:
    """Make the run folder, with the configuration in it; a folder of another configuration is left alone."""
    try:
        check_folder(out, plan.resolved)
        out.mkdir(parents=True, exist_ok=True)
        if jax.process_index() == 0:
            new = out / "config.yaml.new"  # replaced at once, so that a kill leaves no half of it
            new.write_text(configuration.yaml.safe_dump(plan.resolved, sort_keys=False))
            os.replace(new, out / "config.yaml")
    except OSError as error:
        raise UserError(f"expected a folder to write to, got {out}: {error.strerror}; choose another --out") from None


def _resume(plan: Plan, runtime: Runtime, report: Report, checkpoints: Checkpoints) -> tuple[TrainState, Meta | None]:
    """The newest readable state with its meta, or a fresh one and None."""
    if checkpoints.latest is None:
        checkpoints.clear_best()
        return fresh_state(plan, runtime), None
    restored = checkpoints.restore(abstract_state(plan, runtime))
    _refuse_other(checkpoints.run, plan.resolved, restored.meta.config)  # where the folder's config.yaml was lost
    for note in restored.notes:
        report.note(note)
    checkpoints.set_aside(restored.damaged)
    return restored.state, restored.meta


def _agreed(flag: bool) -> bool:
    """The first process's answer, in all of them."""
    return flag if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.int32(flag)))


def run(
    plan: Plan, out: Path, *, budget: float = float("inf"), profile: bool = False, quiet: bool = False
) -> tuple[int, TrainState]:
    """Train or resume a plan in the folder `out`; returns the exit code and the last state.

    Errors: UserError (folder of another configuration, disk full, no readable checkpoint), RunError (NaN, recompile).
    """
    started = time.monotonic()
    runtime = runtimes.start(plan.runtime)
    _open_folder(out, plan)
    main = runtime.is_main
    try:
        report = Report(out if main else out / f"process_{jax.process_index()}", quiet=quiet or not main)
        closed = report.trained
        checkpoints = Checkpoints(out, plan.train.keep)
        try:
            return _train(plan, out, runtime, report, checkpoints, closed, budget - (time.monotonic() - started), profile)
        except RunError as error:
            report.close(f"stopped: {error}")
            raise
        finally:
            report.stop_progress()
            with contextlib.suppress(Exception):  # a failed save was raised already
                checkpoints.close()
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(
            f"expected to write to {out}, got: {error.strerror}; free some space and start the same command again, "
            "it resumes from the last checkpoint"
        ) from error


def _train(
    plan: Plan,
    out: Path,
    runtime: Runtime,
    report: Report,
    checkpoints: Checkpoints,
    closed: bool,
    budget: float,
    profile: bool,
) -> tuple[int, TrainState]:
    git = git_revision()
    shapes = abstract_state(plan, runtime)
    report.start(
        [
            f"run: {plan.name} in {out}" + (f", revision {git}" if git else ""),
            f"device: {runtime.describe()}",
            f"parameters: {count(shapes.params):,} ({bytes_of(shapes) / 2**20:.1f} MiB with the optimiser)",
        ],
        runtimes.environment() | {"device": runtime.describe(), "command": " ".join(sys.argv)},
    )
    state, meta = _resume(plan, runtime, report, checkpoints)
    total = total_steps(plan.experiment.stages)
    step = meta.step if meta is not None else 0
    if _agreed(closed and step == total):
        report.close("finished")
        report.say(f"this run is finished (step {step}); choose another --out, or delete {out}, to train again")
        return DONE, state
    report.rewind(step if meta else -1, meta.records if meta else 0)
    if meta is not None:
        report.note(f"resumed from step {step} of {total}")
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
    resume = f"to go on: python -m jaxsrc.train {out}/config.yaml --out {out}"
    if status == "interrupted":
        report.note(f"interrupted and saved; {resume}")
        report.close(status)
        return INTERRUPTED, state
    if status == "out of time":
        report.note(f"out of time and saved; {resume}")
    if isinstance(plan.experiment, Carried):
        plan.experiment.take(state.carry)
    plan.experiment.finish(state.best_params, report)
    report.close(status)
    return DONE, state


EXAMPLES = """examples:
  python -m jaxsrc.train                                             the ARC solver, into runs/arc_sheaf
  python -m jaxsrc.train --dry-run                                   what it would be: parameters, FLOPs, memory
  python -m jaxsrc.train optim.learning_rate=1e-3 --out runs/slower  one value changed; any key of the file can be
  python -m jaxsrc.train --budget-seconds 600                        ten minutes, then the pictures; again: go on

The folder holds metrics.jsonl, report.html, checkpoints and a README.txt that explains them.
Exit codes: 0 done, 1 the training failed (NaN), 2 something to mend in the command or its files, 130 interrupted and saved.
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m jaxsrc.train",
        description="Train a configuration. The same command again resumes a run that was stopped, to the same numbers.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("config", nargs="?", default=DEFAULT, metavar="CONFIG", help=f"YAML file (default {DEFAULT})")
    found.add_argument("override", nargs="*", metavar="key=value", help="change a value of the file: optim.ema=0.99")
    found.add_argument("--out", type=Path, metavar="DIR", help="run folder, made or resumed (default runs/NAME)")
    found.add_argument(
        "--device", choices=["auto", "cpu", "cuda", "metal"], help="auto takes cuda, then metal, then cpu (default auto)"
    )
    found.add_argument("--gpu-only", action="store_true", help="refuse to start without a GPU")
    found.add_argument("--precision", choices=["float32", "bfloat16", "float16"], help="of the computation")
    found.add_argument("--dry-run", action="store_true", help="show parameters, FLOPs and memory; read no data")
    found.add_argument(
        "--budget-seconds", type=float, default=float("inf"), metavar="S", help="stop after S seconds, save, and finish"
    )
    found.add_argument("--profile", action="store_true", help="write a trace of steps 10 to 20 into DIR/profile")
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
    if re.match(r"[\w.]+=", path) and not os.path.exists(path):
        overrides, path = [path, *overrides], DEFAULT
    for name, value in (("device", args.device), ("gpu_only", args.gpu_only or None), ("precision", args.precision)):
        if value is not None:
            overrides.append(f"runtime.{name}={str(value).lower()}")
    if not args.budget_seconds > 0:
        raise UserError(f"--budget-seconds: expected a positive number, got {args.budget_seconds}; raise it, or leave it out")
    plan = plan_of(path, overrides)
    runtimes.refuse_half_on_cpu(plan.runtime)
    if args.dry_run:
        dry_run(plan)
        return DONE
    out = args.out or Path("runs") / plan.name
    return run(plan, out, budget=args.budget_seconds, profile=args.profile)[0]


if __name__ == "__main__":
    heap.keep_freed()
    command_line(main)
