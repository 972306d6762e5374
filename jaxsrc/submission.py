"""ARC Prize submissions, submission.json: task id -> one {"attempt_1": grid, "attempt_2": grid} per test input.

`python -m jaxsrc.submission validate|score FILE [--tasks SOURCE | --solutions FILE]`
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxsrc.data.arc import Task
from jaxsrc.data.arc_files import load, parse_grid, read_json, read_solutions
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.scoring import Answer, hits, truths_of, wilson

ATTEMPTS = ("attempt_1", "attempt_2")
Submission = dict[str, list[list[np.ndarray]]]
"""Task id -> the two attempts, each one grid per test input."""


@dataclass(frozen=True)
class SubmissionScore:
    """Test outputs right in one of two attempts, and tasks with all their test outputs right."""

    outputs_solved: int
    outputs: int
    tasks_solved: int
    tasks: int

    def __str__(self) -> str:
        low, high = wilson(self.tasks_solved, self.tasks)
        return (
            f"{self.outputs_solved} of {self.outputs} test outputs ({self.outputs_solved / self.outputs:.1%}), "
            f"{self.tasks_solved} of {self.tasks} tasks whole ({self.tasks_solved / self.tasks:.1%}, "
            f"95 % interval {low:.1%} to {high:.1%})"
        )


def write(path: Path, tasks: Sequence[Task], answers: Mapping[str, Sequence[Answer]]) -> Path:
    """Write the two best answers of every task; where there is one it stands twice, where none, the test input.

    What was at the path stays there unless the new file is complete and valid.
    """
    body: dict[str, Any] = {}
    for task in tasks:
        best = list(answers.get(task.id, ()))[:2] or [[pair.input for pair in task.test]]
        pairs = zip(best[0], best[-1], strict=True)
        body[task.id] = [{name: np.asarray(g).tolist() for name, g in zip(ATTEMPTS, p, strict=True)} for p in pairs]
    parse(body, counts_of(tasks), "the submission to write")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(body), encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: expected to write a submission, got {error.strerror}; name another place") from error
    return path


def validate(path: Path, tasks: Sequence[Task]) -> Submission:
    """The attempts of a submission; UserError unless it has exactly these tasks and every grid is well formed."""
    return parse(read_json(path), counts_of(tasks), str(path))


def parse(body: Any, counts: Mapping[str, int], where: str) -> Submission:
    """The attempts in a submission's content; counts: test inputs by task id. UserError if it does not fit them."""
    if not isinstance(body, dict):
        raise UserError(f"{where}: expected an object of task ids, got {type(body).__name__}; write it with `write`")
    missing, unknown = sorted(counts.keys() - body.keys()), sorted(body.keys() - counts.keys())
    if missing or unknown:
        raise UserError(
            f"{where}: expected exactly the {len(counts)} task ids, got {_some('missing', missing)} and "
            f"{_some('unknown', unknown)}; name the set that it was made for"
        )
    found: Submission = {}
    for name, entries in body.items():
        if not isinstance(entries, list) or len(entries) != counts[name]:
            got = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise UserError(
                f"{where}: task {name}: expected a list of {counts[name]} entries, got {got}; give one per test input"
            )
        for i, entry in enumerate(entries):
            if not isinstance(entry, dict) or set(entry) != set(ATTEMPTS):
                got = ", ".join(sorted(entry)) or "none" if isinstance(entry, dict) else type(entry).__name__
                raise UserError(
                    f"{where}: task {name}: test {i}: expected attempt_1 and attempt_2, got {got}; "
                    "give both, the same grid twice if there is one"
                )
        found[name] = [
            [
                parse_grid(entry[attempt], f"{where}: task {name}: test {i}: {attempt}")
                for i, entry in enumerate(entries)
            ]
            for attempt in ATTEMPTS
        ]
    return found


def score(path: Path, tasks: Sequence[Task]) -> SubmissionScore:
    """Score a submission against the known test outputs of tasks."""
    return score_truths(path, {task.id: truths_of(task) for task in tasks})


def score_truths(path: Path, truths: Mapping[str, Sequence[np.ndarray]]) -> SubmissionScore:
    """Score a submission against test outputs by task id, as `read_solutions` gives them."""
    found = parse(read_json(path), {name: len(grids) for name, grids in truths.items()}, str(path))
    right = [list(map(any, hits(found[name], grids).T.tolist())) for name, grids in truths.items()]
    return SubmissionScore(
        outputs_solved=sum(map(sum, right)),
        outputs=sum(map(len, right)),
        tasks_solved=sum(map(all, right)),
        tasks=len(right),
    )


def counts_of(tasks: Sequence[Task]) -> dict[str, int]:
    """Number of test inputs by task id."""
    return {task.id: len(task.test) for task in tasks}


def _some(what: str, names: Sequence[str]) -> str:
    return f"{len(names)} {what}" + (f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="python -m jaxsrc.submission", description="Check or score a submission.json of the ARC Prize."
    )
    found.add_argument("action", choices=["validate", "score"], help="check the format only, or count what is right")
    found.add_argument("file", type=Path, metavar="FILE", help="the submission")
    against = found.add_mutually_exclusive_group()
    against.add_argument(
        "--tasks",
        default="arcagi1:evaluation",
        metavar="SOURCE",
        help="the set it is for: arcagi1:evaluation (default), arcagi2:evaluation, a folder, a challenges file ...",
    )
    against.add_argument("--solutions", type=Path, metavar="FILE", help="or a Kaggle solutions file")
    return found


def main(arguments: list[str]) -> int:
    """Validate or score; prints one line."""
    args = parser().parse_args(arguments)
    if args.solutions:
        truths = read_solutions(args.solutions)
        if not truths:
            raise UserError(f"{args.solutions}: expected solutions of at least one task, got none; name another file")
        counts = {name: len(grids) for name, grids in truths.items()}
    else:
        tasks = load(args.tasks)
        counts = counts_of(tasks)
        truths = {task.id: truths_of(task) for task in tasks} if args.action == "score" else {}
    if args.action == "validate":
        parse(read_json(args.file), counts, str(args.file))
        print(f"{args.file}: a valid submission for {len(counts)} tasks, {sum(counts.values())} test inputs")
    else:
        print(f"{args.file}: {score_truths(args.file, truths)}")
    return DONE


if __name__ == "__main__":
    command_line(main)
