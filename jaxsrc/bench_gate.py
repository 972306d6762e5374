"""All arms of a gate on one machine in one process: at equal wall-clock time and at equal epochs, over seeds and noisy labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import t as student

from jaxsrc.errors import UserError
from jaxsrc.gate_arms import Arm, Result, examples_of
from jaxsrc.gate_config import (
    FORWARD,
    DenseGate,
    Gate,
    ImportanceGate,
    InfoBatchGate,
    RandomGate,
    RS2Gate,
    SelectiveBackpropGate,
    SundewGate,
    TopKGate,
)
from jaxsrc.gate_cost import counted
from jaxsrc.image_experiment import ImageConfig
from jaxsrc.modules.significance import SignificanceConfig
from jaxsrc.optim import OptimConfig
from jaxsrc.plots import gate_bench
from jaxsrc.prefetch import whole
from jaxsrc.report import Report
from jaxsrc.runtime import Runtime

COLUMNS = ("arm", "accuracy", "95 % interval", "steps", "trained", "scored", "TFLOP", "seconds", "rate", "never seen", "of dense")
RIVALS = ("dense", "random, equal compute")
TIMED = 4  # calls that a step is timed over
PUBLISHED = SignificanceConfig(loss=0.7, spread=0.3)


def arms(rate: float, sundew: SundewGate, early: bool) -> dict[str, Gate]:
    """Every arm at one rate; `sundew` gives the other fields of its policies. RS2 and InfoBatch follow their papers."""
    policy = lambda p: replace(sundew, rate=rate, policy=p, fall_back=False)
    found: dict[str, Gate] = {
        "dense": DenseGate(),
        "random": RandomGate(rate=rate),
        "random, one subset": RandomGate(rate=rate, subset="fixed"),
        "random, equal compute": RandomGate(rate=min(rate + FORWARD, 1.0)),
        "RS2": RS2Gate(rate=rate),
        "top-k of the loss": TopKGate(rate=rate),
        "selective backprop": SelectiveBackpropGate(rate=rate),
        "InfoBatch": InfoBatchGate(),
        "importance, unbiased": ImportanceGate(rate=rate),
        "sundew full, published significance": replace(
            policy("full"), significance=PUBLISHED, mixed=0.0, drop=0.0, warmup=0.0, last=0.0
        ),
        "sundew full": policy("full"),
        "sundew memory": policy("memory"),
        "sundew memory, half": replace(policy("memory"), rate=max(rate, 0.5)),
        "sundew memory, unbiased": replace(policy("memory"), unbiased=True),
        "sundew every_k": policy("every_k"),
    }
    return found | ({"sundew proxy": policy("proxy")} if early else {})


@dataclass(frozen=True)
class Plan:
    """seconds: of dense training that every arm gets in the wall-clock half, 0 for none; epochs: of the data set in the
    other half, 0 for none."""

    config: ImageConfig
    optim: OptimConfig
    seconds: float
    epochs: float
    seeds: int
    noises: tuple[float, ...]

    def check(self) -> None:
        if self.seeds < 1 or not self.noises or (self.seconds <= 0 and self.epochs <= 0):
            raise UserError("expected at least one seed, one share of noise and one budget, got none; see --help")


@dataclass(frozen=True)
class Timing:
    """Of one arm: seconds of a step and of an epoch, measured alternately with the other arms'."""

    step: float
    epoch: float


def timings(plan: Plan, gates: dict[str, Gate], runtime: Runtime, rounds: int = 8) -> dict[str, Timing]:
    """The least time of a step of each arm, over rounds in which all take turns."""
    made = {n: Arm(n, g, replace(plan.config, steps=0), plan.optim, runtime) for n, g in gates.items()}
    resident = whole(examples_of(plan.config).resident(), runtime)
    best = dict.fromkeys(made, float("inf"))
    for _ in range(rounds):
        for name, arm in made.items():
            best[name] = min(best[name], arm.seconds_a_step(resident, TIMED))
    return {n: Timing(best[n], best[n] * arm.experiment.per_epoch) for n, arm in made.items()}


def run(
    plan: Plan, gates: dict[str, Gate], times: dict[str, Timing], runtime: Runtime, say: Callable[[str], None]
) -> list[Result]:
    """Every arm, budget, noise and seed, of which each has wrong labels of its own; every schedule ends with the last step."""
    plan.check()
    examples = examples_of(plan.config)
    resident = whole(examples.resident(), runtime)
    found: list[Result] = []
    for name, gate in gates.items():
        lengths = {}
        if plan.seconds > 0:
            lengths["equal time"] = max(round(plan.seconds / times[name].step), 10)
        if plan.epochs > 0:
            lengths["equal epochs"] = 0
        for budget, steps in lengths.items():
            config = replace(plan.config, epochs=plan.epochs or plan.config.epochs)
            arm = Arm(name, gate, config, plan.optim, runtime, steps)
            for noise in plan.noises:
                mine = [arm.train(examples, resident, seed, budget, noise) for seed in range(plan.seeds)]
                found += mine
                mean = np.mean([r.accuracy for r in mine])
                say(f"{budget}, noise {noise:.0%}, {name}: {mean:.4f}, {arm.steps} steps, {mine[0].seconds:.1f} s a seed")
    return found


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % interval of a mean by Student's t; the mean alone from one value."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, float("nan"), float("nan")
    half = float(student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return mean, mean - half, mean + half


def rows(results: Sequence[Result], flops: tuple[float, float]) -> list[tuple]:
    """One row an arm, of results that share budget and noise; flops: of a trained and of a scored sample."""
    dense = [r for r in results if r.arm == "dense"]
    found = []
    for name in dict.fromkeys(r.arm for r in results):
        mine = [r for r in results if r.arm == name]
        mean, low, high = interval([r.accuracy for r in mine])
        r = mine[0]
        seconds = float(np.mean([x.seconds for x in mine]))
        ratio = f"{seconds / np.mean([x.seconds for x in dense]):.2f}" if dense else "-"
        work = (r.trained * flops[0] + r.scored * flops[1]) / 1e12
        cells = (r.steps, int(r.trained), int(r.scored), work, seconds, f"{r.rate:.3f}", f"{r.never:.1%}", ratio)
        found.append((name, f"{mean:.4f}", f"{low:.4f} - {high:.4f}", *cells))
    return found


def paired(results: Sequence[Result], first: str, second: str) -> tuple[float, float, float]:
    """Mean difference of accuracy, first minus second, over the seeds that both share, with its 95 % interval."""
    by_seed = lambda name: {r.seed: r.accuracy for r in results if r.arm == name}
    a, b = by_seed(first), by_seed(second)
    return interval([a[s] - b[s] for s in sorted(a.keys() & b.keys())])


def _tables(plan: Plan, results: Sequence[Result], report: Report) -> None:
    """Accuracies, costs and differences from the rivals, by budget and noise, and a picture of each budget."""
    flops = counted(examples_of(plan.config))
    for budget in dict.fromkeys(r.budget for r in results):
        pictured = {}
        for noise in plan.noises:
            mine = [r for r in results if r.budget == budget and r.noise == noise]
            report.table(f"{budget}, {noise:.0%} of the labels wrong", COLUMNS, rows(mine, flops))
            names = dict.fromkeys(r.arm for r in mine)
            pictured[f"{noise:.0%} wrong labels"] = {n: interval([r.accuracy for r in mine if r.arm == n]) for n in names}
            for rival in RIVALS:
                if rival in names:
                    pairs = [(n, *paired(mine, n, rival)) for n in names if n.startswith("sundew")]
                    title = f"{budget}, {noise:.0%} wrong: accuracy minus that of {rival}, paired by seed"
                    report.table(title, ("arm", "mean", "95 % from", "to"), pairs)
        file = report.run / "pictures" / f"gate_{budget.replace(' ', '_')}.png"
        report.picture(budget, gate_bench.accuracies(pictured, f"{budget}, {plan.seeds} seeds", file))


def compare(plan: Plan, gates: dict[str, Gate], runtime: Runtime, report: Report) -> list[Result]:
    """Every arm's step timed, then every arm trained; all of it told in the report."""
    times = timings(plan, gates, runtime)
    dense = times["dense"]
    report.table(
        "one step and one epoch, every arm in turn",
        ("arm", "step, ms", "epoch, s", "epochs for one dense"),
        [(n, 1e3 * t.step, t.epoch, f"{dense.epoch / t.epoch:.2f}") for n, t in times.items()],
    )
    results = run(plan, gates, times, runtime, report.say)
    _tables(plan, results, report)
    return results


def frontier(plan: Plan, rates: Sequence[float], sundew: SundewGate, runtime: Runtime, report: Report) -> None:
    """Accuracy on clean labels at each rate, at the same epochs, so that a smaller rate costs less, beside dense training."""
    config = replace(plan.config, epochs=plan.epochs or plan.config.epochs)
    data = examples_of(plan.config)

    def accuracy(name: str, gate: Gate) -> tuple[float, float, float]:
        arm = Arm(name, gate, config, plan.optim, runtime)
        resident = whole(data.resident(), runtime)
        found = interval([arm.train(data, resident, seed, "frontier", 0.0).accuracy for seed in range(plan.seeds)])
        report.say(f"frontier, {name}: {found[0]:.4f}, {arm.steps} steps")
        return found

    lines = {
        "sundew memory": lambda r: replace(sundew, rate=r, policy="memory", fall_back=False),
        "random": lambda r: RandomGate(rate=r),
    }
    found = {n: [(r, accuracy(f"{n} at {r:g}", make(r))) for r in rates] for n, make in lines.items()}
    dense = accuracy("dense", DenseGate())
    report.picture("frontier", gate_bench.frontier(found, dense, report.run / "pictures" / "gate_frontier.png"))
    table = [(n, rate, *map(float, values)) for n, line in found.items() for rate, values in line]
    report.table("frontier at equal epochs", ("arm", "rate", "accuracy", "95 % from", "to"), table)
