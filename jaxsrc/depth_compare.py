"""`python -m jaxsrc.depth_compare RUN ...`: evaluated depth runs side by side, seeds of a track together, with intervals."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from jaxsrc import config as configuration
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.plots.depth import depth_curve, learning_curve
from jaxsrc.report import Report
from jaxsrc.scoring import wilson


def load(run: Path) -> dict:
    """What `python -m jaxsrc.evaluate` wrote; UserError where it was not run."""
    try:
        found = json.loads((run / "depth_evaluation.json").read_text())
    except (OSError, ValueError):
        raise UserError(f"expected an evaluated depth run, got {run}; first: python -m jaxsrc.evaluate {run}") from None
    return found | {"learned": [tuple(point) for point in found.get("learned", [])]}  # older evaluations have none


def label(run: Path, found: dict) -> str:
    """What a run has in common with others of its track but for the seed: track, loops, trained depths, data, examples, steps."""
    chosen = configuration.read_yaml((run / "config.yaml").read_text(), str(run))["experiment"]
    data, loops = chosen["data"], chosen["model"]["loops"]
    sampler = data["sampler"]
    few, many = sampler["operands"]
    drawn = f"{few}-{many} numbers to {sampler['numbers']}, values within {sampler['limit']}, {data['examples']} examples"
    about = drawn if data["source"] == "sampled" else "the study's data" if data["source"] == "study" else data["source"]
    repeated = f", layers {loops} times" if loops > 1 else ""
    return f"{found['track']}{repeated}, trained on {found['trained']} ({about}; step {found['step']})"


def pooled(runs: list[dict]) -> dict[int, tuple[int, int]]:
    """depth -> (right, items) of several seeds together."""
    total: dict[int, tuple[int, int]] = {}
    for run in runs:
        for depth, (right, items) in run["depths"].items():
            before = total.get(int(depth), (0, 0))
            total[int(depth)] = (before[0] + right, before[1] + items)
    return total


def rows(tracks: dict[str, list[dict]]) -> list[list]:
    """A line for each track and depth: pooled share, its interval, and the share of every seed."""
    found = []
    for track, runs in tracks.items():
        for depth, (right, items) in sorted(pooled(runs).items()):
            low, high = wilson(right, items)
            each = [r["depths"][str(depth)] for r in runs if str(depth) in r["depths"]]
            seeds = ", ".join(f"{100 * a / b:.1f}" for a, b in each)
            found.append(
                [f"{track}, depth {depth}", items, f"{100 * right / items:.1f}", f"{100 * low:.1f} - {100 * high:.1f}", seeds]
            )
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxsrc.depth_compare", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders that were evaluated")
    parser.add_argument("--out", type=Path, default=Path("runs/depth_compare"), help="folder of the page and the picture")
    args = parser.parse_args(arguments)
    tracks: dict[str, list[dict]] = {}
    for run in args.runs:
        found = load(run)
        tracks.setdefault(label(run, found), []).append(found)
    report = Report(args.out)
    report.table("greedy exact match, %", ("track", "items", "together", "95 % interval", "each seed"), rows(tracks))
    picture = depth_curve({k: pooled(v) for k, v in tracks.items()}, args.out / "pictures" / "depth_tracks.png")
    report.picture("exact match by depth", picture)
    learned = {name: curves for name, runs in tracks.items() if (curves := [r["learned"] for r in runs if r["learned"]])}
    if learned:
        picture = learning_curve(learned, args.out / "pictures" / "depth_learned.png")
        report.picture("exact match on fresh expressions of the trained depths, by rows seen", picture)
    report.close("compared")
    return DONE


if __name__ == "__main__":
    command_line(main)
