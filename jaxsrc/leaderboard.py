"""What a sweep found: one row a setting, its interval over seeds or over validation windows, and the pictures."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from scipy import stats

from jaxsrc.plots import sweep_pictures
from jaxsrc.protocol import PyTree
from jaxsrc.report import Report, records

if TYPE_CHECKING:
    from jaxsrc.sweep import SweepExperiment

COLUMNS = ("setting", "bits per byte", "95 % interval", "over", "runs", "frozen at")


@dataclass(frozen=True)
class Entry:
    """bits: mean bits a byte of the runs that lasted; low, high: 95 % interval of it; over: what varies in it; frozen:
    step at which each lost run diverged."""

    setting: str
    unit: str
    alpha: str
    learning_rate: float
    bits: float
    low: float
    high: float
    over: str
    runs: int
    frozen: list[int]


def interval(values: Float[np.ndarray, "n"]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t; the interval is unbounded where there is one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def entries(
    sweep: SweepExperiment, nats: Float[np.ndarray, "r w"], targets: Float[np.ndarray, "r w"], frozen: list[int]
) -> list[Entry]:
    """Best first. Several seeds: the interval is over them; one seed: over the validation windows, and says so."""
    scale = math.log(2) * sweep.base.text.bytes_per_token
    bits = nats.sum(1) / targets.sum(1) / scale
    by_window = nats / np.maximum(targets, 1) / scale
    found = []
    for setting in dict.fromkeys(m.setting for m in sweep.members):
        all_runs = [i for i, m in enumerate(sweep.members) if m.setting == setting]
        runs = [i for i in all_runs if frozen[i] < 0]
        one = sweep.members[all_runs[0]]
        if len(runs) > 1:
            mean, low, high = interval(bits[runs])
            over = "seeds"
        elif runs:
            _, low, high = interval(by_window[runs[0]])
            mean, over = float(bits[runs[0]]), "windows"
        else:
            mean, low, high, over = math.inf, math.inf, math.inf, "none"
        shown = f"{one.alpha.value:g}" if one.alpha.kind == "fixed" else one.alpha.kind
        lost = [frozen[i] for i in all_runs if frozen[i] >= 0]
        found.append(Entry(setting, one.unit, shown, one.learning_rate, mean, low, high, over, len(all_runs), lost))
    return sorted(found, key=lambda e: e.bits)


def rows(found: list[Entry]) -> list[tuple[str, str, str, str, int, str]]:
    number = lambda x: f"{x:.4f}" if math.isfinite(x) else "-"
    return [
        (e.setting, number(e.bits), f"{number(e.low)} - {number(e.high)}", e.over, e.runs, ", ".join(map(str, e.frozen)) or "-")
        for e in found
    ]


def write(sweep: SweepExperiment, params: PyTree, report: Report) -> list[Entry]:
    """The table, leaderboard.json and the pictures of a sweep that has been trained."""
    scores = sweep.window_scores(params, 0)
    frozen = [int(x) for x in np.asarray(sweep.carry["frozen"])]
    found = entries(sweep, scores.nats, scores.targets, frozen)
    report.table(f"leaderboard, {scores.nats.shape[1]} validation windows of {sweep.base.text.name}", COLUMNS, rows(found))
    plain = [{k: v if v not in (math.inf, -math.inf) else None for k, v in asdict(e).items()} for e in found]
    (report.run / "leaderboard.json").write_text(json.dumps(plain, indent=1))
    curves = {
        m.name: [(r["step"], r[f"run/{m.name}"]) for r in records(report.run) if f"run/{m.name}" in r] for m in sweep.members
    }
    folder = report.run / "pictures"
    report.picture("loss of every run", sweep_pictures.curves(curves, {m.name: m.setting for m in sweep.members}, folder))
    report.picture("bits per byte by unit and alpha", sweep_pictures.heatmap(found, folder))
    for member, at in zip(sweep.members, frozen, strict=True):
        if at >= 0:
            report.note(f"frozen: {member.name} diverged at step {at} and was kept as it was before; lower its learning rate")
    report.note(f"next: python -m jaxsrc.evaluate {report.run} --member 0..{len(sweep.members) - 1}")
    return found
