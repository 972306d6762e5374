"""Kill a training again and again, start it again each time, and compare its metrics with an uninterrupted run's."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SAVING = "*.orbax-checkpoint-tmp*"  # the name of a checkpoint's folder until it is whole


@dataclass(frozen=True)
class Kill:
    """One kill. at: last step recorded before it; during: 'steps', or 'save' where a checkpoint was half written."""

    at: int
    during: Literal["steps", "save"]


@dataclass(frozen=True)
class Outcome:
    """kills: those that hit; different: steps whose metrics are not bit for bit those of the reference."""

    kills: list[Kill]
    steps: int
    different: list[str]
    stderr: str


def records(run: Path) -> list[dict[str, Any]]:
    """Metrics of a run without `t`, the clock, which no two runs share; a line cut short by a kill is left out."""
    path = run / "metrics.jsonl"
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        found.append({k: v for k, v in record.items() if k != "t"})
    return found


def compare(run: Path, reference: Path) -> list[str]:
    """Differences between two runs' records, in order; [] where they are identical."""
    a, b = records(run), records(reference)
    found = [f"record {i}: {x} here, {y} in the reference" for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
    return found + ([f"{len(a)} records here, {len(b)} in the reference"] if len(a) != len(b) else [])


def last_step(run: Path) -> int:
    found = records(run)
    return found[-1]["step"] if found else 0


def run_to_end(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _half_written(run: Path) -> set[tuple[str, int]]:
    """Name and inode of the checkpoints that are not whole; the inode tells a new one from what an earlier kill left."""
    found = set()
    for path in (run / "checkpoints").glob(SAVING):
        with contextlib.suppress(FileNotFoundError):  # it became whole while we looked
            found.add((path.name, path.stat().st_ino))
    return found


def _records_file(run: Path) -> tuple[int, int] | None:
    path = run / "metrics.jsonl"
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _hit(process: subprocess.Popen, run: Path, step: int, during: str, chance: random.Random, seconds: float) -> Kill | None:
    """SIGKILL once the process itself has touched the records and they are past `step`, at a random moment after that or
    (during a save) as soon as it writes a checkpoint; None if it ended before."""
    left, records_left = _half_written(run), _records_file(run)
    deadline = time.monotonic() + seconds
    past = False
    while process.poll() is None and time.monotonic() < deadline:
        past = past or (_records_file(run) != records_left and last_step(run) >= step)
        if past and during == "steps":
            time.sleep(chance.uniform(0, 0.3))
        if past and (during == "steps" or _half_written(run) - left):
            os.kill(process.pid, signal.SIGKILL)
            if process.wait() != -signal.SIGKILL:
                return None
            # The save may have ended between the look and the kill: only a folder that stayed half written counts.
            return Kill(last_step(run), "save" if _half_written(run) - left else "steps")
        time.sleep(0.002 if not past else 0.0005)
    return None


def torture(
    command: Sequence[str], folder: Path, steps: int, *, kills: int, saves: int, seed: int = 0, patience: float = 300.0
) -> Outcome:
    """Run `command --out FOLDER/reference` once, then `command --out FOLDER/killed` with `kills` SIGKILLs, `saves` of
    them during a save, spread over `steps` at random; then to its end."""
    chance = random.Random(seed)
    reference, run = folder / "reference", folder / "killed"
    done = run_to_end([*command, "--out", str(reference)])
    if done.returncode:
        raise RuntimeError(f"expected the uninterrupted run to end with 0, got {done.returncode}: {done.stderr[-2000:]}")
    kinds = ["save"] * saves + ["steps"] * (kills - saves)
    chance.shuffle(kinds)
    points = sorted(chance.randrange(0, int(0.9 * steps)) for _ in kinds)
    hits: list[Kill] = []
    for kind, point in zip(kinds, points, strict=True):
        for _ in range(5):  # a save that ends before the signal arrives counts as a plain kill: try again for a save
            with open(os.devnull, "w") as null:
                process = subprocess.Popen([*command, "--out", str(run)], stdout=null, stderr=null)
            hit = _hit(process, run, point, kind, chance, patience)
            if process.poll() is None:
                process.kill()
                process.wait()
            if hit is not None:
                hits.append(hit)
            if hit is None or hit.during == kind or kind == "steps":
                break
    done = run_to_end([*command, "--out", str(run)])
    different = compare(run, reference) if done.returncode == 0 else [f"ended with {done.returncode}"]
    return Outcome(hits, last_step(run), different, done.stderr)
