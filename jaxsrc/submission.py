"""ARC Prize submissions: task id -> one {"attempt_1", "attempt_2"} a test input. Write, validate, score.

`python -m jaxsrc.submission validate|score FILE --tasks SOURCE`
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsrc.data.arc import Task
from jaxsrc.data.arc_files import load, parse_grid, read_json
from jaxsrc.errors import DONE, UserError, command_line

ATTEMPTS = ("attempt_1", "attempt_2")


def write(path: Path, tasks: Sequence[Task], answers: Mapping[str, Sequence[Sequence[np.ndarray]]]) -> Path:
    """Write the two best answers of every task; where there is one answer it stands twice, where none, the test input."""
    body: dict[str, Any] = {}
    for task in tasks:
        ranked = list(answers.get(task.id, []))[:2] or [[p.input for p in task.test]]
        ranked = (ranked * 2)[:2]
        body[task.id] = [
            {name: ranked[k][i].tolist() for k, name in enumerate(ATTEMPTS)} for i in range(len(task.test))
        ]
    path.write_text(json.dumps(body))
    validate(path, tasks)
    return path


def validate(path: Path, tasks: Sequence[Task]) -> dict[str, list[list[np.ndarray]]]:
    """Grids of a submission, [test input][attempt] by task id; UserError unless it is complete and well formed."""
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected an object of task ids, got {type(raw).__name__}; write it with jaxsrc.evaluate")
    wanted = {t.id: len(t.test) for t in tasks}
    missing, extra = sorted(wanted.keys() - raw.keys()), sorted(raw.keys() - wanted.keys())
    if missing or extra:
        raise UserError(
            f"{path}: expected exactly the {len(wanted)} task ids, got {len(missing)} missing {missing[:3]} and "
            f"{len(extra)} unknown {extra[:3]}; score it against the set it was made for"
        )
    out = {}
    for id, entries in raw.items():
        if not isinstance(entries, list) or len(entries) != wanted[id]:
            got = len(entries) if isinstance(entries, list) else type(entries).__name__
            raise UserError(f"{path}: task {id}: expected {wanted[id]} test outputs, got {got}; one entry a test input")
        grids = []
        for i, entry in enumerate(entries):
            where = f"{path}: task {id}: output {i + 1}"
            if not isinstance(entry, dict) or set(entry) != set(ATTEMPTS):
                raise UserError(f"{where}: expected attempt_1 and attempt_2, got {sorted(entry) if entry else entry}")
            grids.append([parse_grid(entry[name], f"{where}, {name}") for name in ATTEMPTS])
        out[id] = grids
    return out


def score(path: Path, tasks: Sequence[Task]) -> tuple[float, int]:
    """(sum over tasks of the share of test outputs that one of two attempts gets right, number of tasks)."""
    grids = validate(path, tasks)
    total = 0.0
    for task in tasks:
        hits = []
        for entry, pair in zip(grids[task.id], task.test, strict=True):
            if pair.output is None:
                raise UserError(f"expected known test outputs to score, got none for task {task.id}; name a scored set")
            hits.append(any(np.array_equal(g, pair.output) for g in entry))
        total += float(np.mean(hits))
    return total, len(tasks)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxsrc.submission", description=__doc__)
    parser.add_argument("action", choices=["validate", "score"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--tasks", default="arcagi1:evaluation", help="set, folder or challenges file")
    args = parser.parse_args(arguments)
    tasks = load(args.tasks)
    if args.action == "validate":
        print(f"{args.file}: a valid submission for {len(validate(args.file, tasks))} tasks")
    else:
        total, count = score(args.file, tasks)
        print(f"{args.file}: {total:.2f} of {count} tasks ({total / count:.1%})")
    return DONE


if __name__ == "__main__":
    command_line(main)
