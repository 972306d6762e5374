"""`python -m jaxsrc.evaluate RUN`: score a run: ARC tasks, nested arithmetic, a text or pictures."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxsrc import depth_evaluate, hybrid_evaluate, leaderboard, scoring, submission
from jaxsrc import runtime as runtimes
from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.baselines import BASELINES
from jaxsrc.data.arc import Task, refuse_leaks
from jaxsrc.data.arc_files import load
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.evaluate_images import evaluate_images
from jaxsrc.evaluate_text import evaluate_text
from jaxsrc.gated import GatedExperiment
from jaxsrc.hybrid_experiment import HybridExperiment
from jaxsrc.image_experiment import ImageExamples
from jaxsrc.plots import arc_pages
from jaxsrc.report import Report
from jaxsrc.runs import OpenRun, open_run
from jaxsrc.runtime import RuntimeConfig
from jaxsrc.solver.candidate import Family
from jaxsrc.solver.learned import LearnedSections
from jaxsrc.solver.solve import SolverConfig, solve
from jaxsrc.sweep import SweepExperiment
from jaxsrc.text_examples import TextExamples
from jaxsrc.text_experiment import TextExperiment
from jaxsrc.workers import end_with_parent, pool

ARMS: dict[str, tuple[Family, ...]] = {
    "hand-made kernel, no learning": ("hand-made",),
    "learned encoder alone": ("learned",),
    "chosen sections, no learning": ("sections",),
    "chosen sections and encoder": ("sections", "learned"),
}
MAIN = "chosen sections and encoder"


@dataclass(frozen=True)
class Solved:
    """Ranked answers of one task in every arm, how the main arm's first came about, and the seconds it took."""

    task: Task
    answers: dict[str, list[list[np.ndarray]]]
    how: str
    seconds: float


_worker: tuple[SolverConfig, LearnedSections | None] | None = None


def _prepare(run: Path, which: str, views: int | None, device: str) -> None:
    """Open the run once in a worker process."""
    global _worker
    end_with_parent()
    runtimes.start(RuntimeConfig(device=device))  # type: ignore[arg-type]
    opened = open_run(run, which)
    _worker = solver_of(opened, views)


def solver_of(opened: OpenRun, views: int | None) -> tuple[SolverConfig, LearnedSections]:
    """Solver settings and learned sections of a run; UserError if it is not an ARC run."""
    if not isinstance(opened.experiment, ArcExperiment):
        raise UserError("expected a run of kind arc, got another one; see python -m jaxsrc.evaluate --help")
    config = opened.experiment.config.solver
    return config, opened.experiment.learned(opened.params, views or config.views)


def solve_task(task: Task, config: SolverConfig, learned: LearnedSections | None) -> Solved:
    """All arms of one task; the test outputs are not looked at."""
    start = time.perf_counter()
    outputs = [p.output for p in task.train if p.output is not None]
    solution = solve([p.input for p in task.train], outputs, [p.input for p in task.test], config, learned)
    answers, how = {}, "no candidate"
    for arm, families in ARMS.items():
        ranked = solution.answers(*families)
        answers[arm] = [a.grids for a in ranked]
        if arm == MAIN and ranked:
            how = ranked[0].candidate.how
    answers |= {name: [list(g) for g in baseline(task)] for name, baseline in BASELINES.items()}
    return Solved(task, answers, how, time.perf_counter() - start)


def _work(task: Task) -> Solved:
    assert _worker is not None
    return solve_task(task, *_worker)


def solve_all(
    tasks: Sequence[Task], run: Path, which: str, views: int | None, device: str, workers: int
) -> Iterator[Solved]:
    """Solve tasks in worker processes, largest first so that none is left waiting for one; results in that order."""
    order = sorted(tasks, key=lambda t: -sum(p.input.size for p in t.pairs))
    prepare = partial(_prepare, run, which, views, device)
    if workers == 1:
        prepare()
        yield from map(_work, order)
        return
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_cpu_multi_thread_eigen=false"
    os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    with pool(workers, prepare) as processes:
        yield from processes.map(_work, order, chunksize=2)


def watch(solved: Iterator[Solved], total: int, report: Report) -> list[Solved]:
    """Collect results, saying how far things are every few seconds."""
    found: list[Solved] = []
    first = last = time.monotonic()
    right = 0
    for one in solved:
        found.append(one)
        right += scoring.score(one.task, one.answers[MAIN]).pass2
        now = time.monotonic()
        if len(found) == 1:
            first = now  # before it the workers start and compile
        if now - last > 10 or len(found) == total:
            left = f", about {(now - first) / (len(found) - 1) * (total - len(found)):.0f} s left" if len(found) > 9 else ""
            report.say(f"{len(found)}/{total} tasks, {right} solved in two attempts{left}")
            last = now
    return found


def summarize(found: Sequence[Solved], name: str, report: Report, out: Path) -> dict[str, list[scoring.TaskScore]]:
    """Tables, pictures and submission of an evaluation; returns the scores of every arm."""
    scores = {
        arm: [scoring.score(s.task, s.answers[arm]) for s in found] for arm in (*BASELINES, *ARMS)
    }
    report.table(f"{name}: methods", scoring.COLUMNS, [scoring.row(arm, s) for arm, s in scores.items()])
    report.table(f"{name}: {MAIN}, by scale", scoring.COLUMNS, scoring.by_scale(scores[MAIN]))
    label = "".join(c if c.isalnum() else "_" for c in name).strip("_")[-100:]
    pages = arc_pages.pages(found, MAIN, name, out / "pictures", label)
    bars = arc_pages.scale_bars(scores, out / "pictures" / f"{label}_scales.png")
    for title, path in [*pages, ("tasks solved by scale", bars)]:
        report.picture(f"{name}: {title}", path)
    answers = {s.task.id: s.answers[MAIN] for s in found}
    file = submission.write(out / f"{label}_submission.json", [s.task for s in found], answers)
    total = sum(s.seconds for s in found)
    report.note(f"{name}: {total / len(found):.2f} s of one core a task; submission: {file}")
    for title, path in pages[:1]:
        report.say(f"picture ({title}): {path}")
    return scores


EXAMPLES = """examples:
  python -m jaxsrc.evaluate runs/arc_sheaf                  the set that the configuration names, all cores
  python -m jaxsrc.evaluate runs/arc_sheaf --limit 20       a first look
  python -m jaxsrc.evaluate runs/arc_sheaf --tasks FOLDER   tasks of your own, with solutions, none trained on

Tables and pictures go into the run's report.html; ARC answers also into RUN/..._submission.json.
Exit codes: 0 done, 2 something to mend in the command or its files, 130 interrupted.
"""


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m jaxsrc.evaluate",
        description="Score a run: ARC tasks, nested arithmetic, a text or pictures.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("run", type=Path, metavar="RUN", help="run folder of `python -m jaxsrc.train`")
    more = "set, folder or file; may be given again (default: the configuration's)"
    found.add_argument("--tasks", action="append", metavar="SET", help=more)
    found.add_argument("--held-out", action="store_true", help="score the training tasks that were held out instead")
    found.add_argument("--checkpoint", choices=["latest", "best"], default="latest", help="(default latest)")
    found.add_argument("--limit", type=int, default=0, help="only N tasks or windows; arithmetic: N of each depth (500)")
    depths = list(depth_evaluate.DEPTHS)
    found.add_argument("--depths", type=int, nargs="+", default=depths, metavar="D", help="arithmetic: depths to score")
    found.add_argument("--member", type=int, default=None, metavar="N", help="one run of a sweep (default: all of them)")
    found.add_argument("--views", type=int, default=None, help="ARC: views that the learned sections are averaged over, 1 to 8")
    found.add_argument("--workers", type=int, default=0, help="processes (default: one a core, one on a GPU)")
    found.add_argument("--device", choices=["auto", "cpu", "cuda", "metal"], default="auto", help="(default auto)")
    return found


def _text(args: argparse.Namespace, opened: OpenRun) -> int:
    """A language model on its validation text; every run of a sweep, best first."""
    report = Report(args.run)
    for note in opened.notes:
        report.note(note)
    if isinstance(opened.experiment, SweepExperiment):
        leaderboard.write(opened.experiment, opened.params, report)
    else:
        label = "" if args.member is None else f", run {args.member} of the sweep"
        evaluate_text(opened, report, limit=args.limit, label=label)
    report.close("evaluated")
    return DONE


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    if min(args.limit, args.workers, *args.depths) < 0:
        got = f"{args.limit}, {args.workers} and {args.depths}"
        raise UserError(f"--limit, --workers, --depths: expected none below 0, got {got}; raise them")
    if args.views is not None and not 1 <= args.views <= 8:
        raise UserError(f"--views: expected 1 to 8, got {args.views}; choose one of them")
    if args.held_out and args.tasks:
        raise UserError("expected --held-out or --tasks, got both; leave one of them out")
    runtime = runtimes.start(RuntimeConfig(device=args.device))
    opened = open_run(args.run, args.checkpoint, args.member)
    if isinstance(opened.experiment, GatedExperiment):
        data = opened.experiment.data
        if isinstance(data, ImageExamples):
            return evaluate_images(args.run, opened, data)
        assert isinstance(data, TextExamples)
        opened = replace(opened, experiment=data.text)
    if isinstance(opened.experiment, TextExperiment | SweepExperiment):
        return _text(args, opened)
    experiment = opened.experiment
    if isinstance(experiment, DepthExperiment):
        count = args.limit or (0 if args.tasks else 500)
        depth_evaluate.run(opened, args.run, args.depths, count, args.tasks or ())
        return DONE
    if isinstance(experiment, HybridExperiment):
        report = Report(args.run)
        hybrid_evaluate.run(opened, report)
        report.close("evaluated")
        return DONE
    solver_of(opened, args.views)
    assert isinstance(experiment, ArcExperiment)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    workers = args.workers or (cores if runtime.platform == "cpu" else 1)
    report = Report(args.run)
    for note in opened.notes:
        report.note(note)
    sources = ["held-out training tasks"] if args.held_out else args.tasks or [experiment.config.data.evaluate]
    for source in sources:
        tasks = list(experiment.tasks[1] if args.held_out else load(source))[: args.limit or None]
        if not tasks:
            raise UserError("--held-out: expected training tasks that were held out, got none in this run; leave it out")
        if any(p.output is None for t in tasks for p in t.test):
            raise UserError(f"expected known test outputs in {source}, got some without; score a set with solutions")
        refuse_leaks(experiment.tasks[0], tasks)
        report.say(
            f"{source}: {len(tasks)} tasks, checkpoint {opened.meta.step}, {workers} processes on {runtime.describe()}"
        )
        solved = solve_all(tasks, args.run, args.checkpoint, args.views, args.device, workers)
        summarize(watch(solved, len(tasks), report), source, report, args.run)
    report.close("evaluated")
    return DONE


if __name__ == "__main__":
    command_line(main)
