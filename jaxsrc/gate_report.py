"""After a run with a gate: what it cost, whom it trained on, and the pictures of both."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from jaxsrc import gate_cost
from jaxsrc.gate_config import DenseGate, SundewGate, rate_of
from jaxsrc.gate_select import GRADIENT, NEVER, GateState
from jaxsrc.plots import gate_dashboard, gate_diagram
from jaxsrc.protocol import PyTree
from jaxsrc.report import Report, records

if TYPE_CHECKING:
    from jaxsrc.gate_cost import Cost
    from jaxsrc.gated import GatedExperiment

PUBLISHED = (10.0, 0.1)  # energy that the published script books for an activated and for a skipped sample


def bookkeeping(rate: float) -> float:
    """Share saved as the published script books it: 1 - (10 a + 0.1 (1 - a)) / 10 at activation rate a."""
    on, off = PUBLISHED
    return 1 - (on * rate + off * (1 - rate)) / on


def coverage(experiment: GatedExperiment, state: GateState, report: Report) -> None:
    """How much of the data set was trained on, how evenly, how long ago, and how many labels the gate doubts in the end."""
    times, seen = np.asarray(state.times), np.asarray(state.seen)
    never = float((times == 0).mean())
    age = (int(state.step) - seen[seen != NEVER]) / experiment.per_epoch
    top = np.sort(times)[::-1]
    tenth = float(top[: max(len(top) // 10, 1)].sum() / max(top.sum(), 1))
    middle = float(np.median(age)) if len(age) else float("nan")
    gate, doubted = experiment.gate, "-"
    if isinstance(gate, SundewGate) and gate.drop and not gate.unbiased:
        doubted = f"{float((np.asarray(state.measured)[seen != NEVER, GRADIENT] > gate.doubt).mean()):.2%}"
    columns = ("samples", "never trained on", "times, median", "most", "share of the most trained tenth", "median epochs since")
    row = (len(times), f"{never:.2%}", float(np.median(times)), int(times.max()), f"{tenth:.1%}", middle, doubted)
    report.table("coverage", (*columns, "labels in doubt"), [row])


def cost(experiment: GatedExperiment, params: PyTree, state: GateState, report: Report) -> Cost:
    """Measures seconds and operations against dense steps in the same process; draws dashboard and diagram."""
    found = gate_cost.measure(experiment, params, state)
    sizes = experiment.sizes
    steps = max(int(state.step), 1)
    passed, trained, scored = steps * sizes.passed, float(state.trained), float(state.scored)
    saved = found.saved(passed, trained, scored)
    rate = trained / passed
    booked = f"{bookkeeping(rate):.1%}"
    report.table(
        "cost, measured in this process",
        ("step", "ms", "steps an epoch", "s an epoch", "operations saved", "published bookkeeping"),
        [
            ("dense", 1e3 * found.dense_seconds, found.dense_epoch / found.dense_seconds, found.dense_epoch, "0 %", "0 %"),
            (experiment.gate.kind, 1e3 * found.seconds, experiment.per_epoch, found.epoch, f"{saved:.1%}", booked),
        ],
    )
    if not isinstance(experiment.gate, DenseGate):
        report.note(
            f"an epoch is {found.speedup:.2f} times as fast as a dense one; {rate:.2%} of the samples were trained on, "
            f"{scored / passed:.0%} scored by a forward pass"
        )
    facts = asdict(found) | {"rate": rate, "target": rate_of(experiment.gate), "saved": saved, "scored": scored / passed}
    (report.run / "gate.json").write_text(json.dumps(facts, indent=1))
    rows = records(report.run)
    folder = report.run / "pictures"
    view = gate_dashboard.View(
        title=experiment.name,
        per_epoch=experiment.per_epoch,
        passed=sizes.passed,
        target=rate_of(experiment.gate),
        cost=found,
        bookkeeping=bookkeeping,
    )
    report.picture("dashboard", gate_dashboard.draw(rows, view, folder / "dashboard.png"))
    report.picture("data flow", gate_diagram.draw(experiment, found, rate, folder / "data_flow.png"))
    report.say(f"picture (dashboard): {folder / 'dashboard.png'}")
    return found
