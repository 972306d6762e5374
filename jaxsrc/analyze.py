"""`python -m jaxsrc.analyze RUN QUESTION`: what the heads, layers and states of a trained transformer do, with controls.

Runs of kind depth (expressions) and text (held-out windows, the next byte, brackets for nesting).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np

from jaxsrc import runtime as runtimes
from jaxsrc.analysis import ablate as ablation
from jaxsrc.analysis import lens as lenses
from jaxsrc.analysis import patch as patching
from jaxsrc.analysis import probing
from jaxsrc.analysis import study as studies
from jaxsrc.analysis.material import DepthMaterial, Material
from jaxsrc.analysis.subject import Subject
from jaxsrc.analysis.text_material import TextMaterial
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.plots import analysis as pictures
from jaxsrc.protocol import PyTree
from jaxsrc.report import Report
from jaxsrc.runs import OpenRun, open_run
from jaxsrc.runtime import RuntimeConfig
from jaxsrc.statistics import rank_correlation
from jaxsrc.text_experiment import TextExperiment


@dataclass(frozen=True)
class Case:
    """An opened run with what the questions share."""

    material: Material
    params: PyTree
    report: Report
    out: Path
    items: int
    unit: str = ""

    @property
    def subject(self) -> Subject:
        return self.material.subject


def material_of(opened: OpenRun, run: Path) -> Material:
    """UserError for a run whose model is no transformer."""
    match opened.experiment:
        case DepthExperiment() as depth:
            return DepthMaterial(depth)
        case TextExperiment() as text:
            text.take({"step": np.int32(opened.meta.step)})
            return TextMaterial(text)
        case _:
            raise UserError(
                f"expected a run of one transformer (kind depth or text), got {run} of another kind; analyse another"
            )


def ablate(case: Case) -> None:
    """Every head and feed-forward block switched off: answers lost, loss, tests; zero, mean and resample."""
    scored = case.material.scored(case.items)
    for method in ablation.METHODS:
        found = ablation.ablate(case.subject, case.params, scored.rows, method, batch=len(scored.nested))
        rho = rank_correlation(found.rises, found.estimate.astype(np.float64))
        title = f"ablation, {method}: {len(scored.nested)} {scored.name}, {100 * found.exact.mean():.1f} % right before"
        lines = [line for line in found.table() if case.unit in ("", line[0])]
        case.report.table(title, ablation.TABLE, lines)
        units = found.findings()
        case.report.note(
            f"{method}: {len(units)} of {len(found.units)} units change the answers at 5 % after Holm's correction; rank "
            f"correlation of the first-order estimate with the exact rise of the loss {rho:.2f}"
        )
        if scored.nested.any() and not scored.nested.all():
            gaps = ablation.group_difference(found, scored.nested)
            best = sorted(zip(found.units, gaps, strict=True), key=lambda u: -abs(u[1][0]))[:8]
            rows_of = [[u, f"{100 * d:.1f}", f"{p:.3g}", f"{min(1.0, p * len(found.units)):.3g}"] for u, (d, p) in best]
            case.report.table(f"ablation, {method}: nested less flat", ("unit", "points", "p", "p, Bonferroni"), rows_of)
        shape = (len(case.subject.names), case.subject.heads + 1)
        columns = [*(f"head {h}" for h in range(case.subject.heads)), "feed-forward"]
        for what, table, unit in (("answers lost", 100 * found.drops, "points"), ("rise of loss", found.rises, "nats")):
            path = case.out / "pictures" / f"ablate_{method}_{what.replace(' ', '_')}.png"
            title = f"{what} without the unit ({method})"
            made = pictures.grid(table.reshape(shape), case.subject.names, columns, path, title=title, unit=unit, signed=True)
            case.report.picture(f"ablation, {method}: {what}", made)


def probe(case: Case) -> None:
    """Linear probes of nesting depth on every stream and head, beside their controls; then the directions erased."""
    untrained, fitted = case.material.untrained(), []
    for binary in (True, False):
        fitted, classes = case.material.probed(case.items, binary)
        lines, controls = probing.probe_depth(case.subject, case.params, untrained, fitted, classes=classes)
        name = "depth above zero" if binary else "exact depth"
        case.report.table(f"probe, {name}: accuracy, %", probing.COLUMNS, lines)
        case.report.table(
            f"probe, {name}: look-up controls, %", ("control", "accuracy"), [[k, f"{100 * v:.1f}"] for k, v in controls.items()]
        )
        streams = len(case.subject.names) + 1
        series = {"trained": [float(r[1]) for r in lines[:streams]], "random model": [float(r[3]) for r in lines[:streams]]}
        series |= {
            "deeper, trained": [float(r[6]) for r in lines[:streams]],
            "deeper, random": [float(r[7]) for r in lines[:streams]],
        }
        series |= {k.removeprefix("test: "): [100 * v] * streams for k, v in controls.items() if k.startswith("test")}
        path = case.out / "pictures" / f"probe_{'binary' if binary else 'exact'}.png"
        places = [r[0] for r in lines[:streams]]
        case.report.picture(f"probe, {name}", pictures.lines(series, places, path, title=f"probes of {name}", unit="accuracy, %"))
    erased = probing.erase(case.subject, case.params, fitted[0], case.material.scored(case.items).rows)
    case.report.table("probe: depth directions erased", probing.ERASED, erased)


def patch(case: Case) -> None:
    """Where the difference of two matched texts sits: streams of one run put into the other, layer by token."""
    pairs = case.material.pairs(case.items)
    found = patching.patch(case.subject, case.params, pairs.clean, pairs.corrupt)
    path = case.out / "pictures" / "patch.png"
    title = f"share recovered, {found.pairs} pairs like {pairs.name}"
    made = pictures.grid(found.recovered, found.stages, pairs.tokens, path, title=title, unit="share", signed=True)
    case.report.picture("activation patching", made)
    best = np.argsort(-found.recovered.ravel())[:12]
    at = [np.unravel_index(i, found.recovered.shape) for i in best]
    rows = [[found.stages[i], f"{j}: {pairs.tokens[j]}", float(found.recovered[i, j])] for i, j in at]
    case.report.table(f"patching: largest shares of {found.gap:.2f} nats, {found.pairs} pairs", ("after", "token", "share"), rows)


def lens(case: Case) -> None:
    """What each layer would answer if it were the last."""
    found = lenses.lens(case.subject, case.params, case.material.scored(case.items).rows)
    lines = [[s, f"{100 * r:.1f} %", float(p)] for s, r, p in zip(found.stages, found.right, found.likelihood, strict=True)]
    case.report.table("logit lens: asked tokens, teacher-forced", ("after", "right", "mean log-probability"), lines)
    path = case.out / "pictures" / "lens.png"
    made = pictures.lines(
        {"right": list(100 * found.right)}, found.stages, path, title="logit lens", unit="asked tokens right, %"
    )
    case.report.picture("logit lens", made)


def attention(case: Case) -> None:
    """Where every head looks, on one nested text."""
    rows, tokens, text = case.material.shown()
    found = {n: v[0] for n, v in lenses.patterns(case.subject, case.params, rows).items()}
    case.report.picture(f"attention on {text}", pictures.attention(found, tokens, case.out / "pictures" / "attention.png"))
    case.report.note(f"attention on {text}: {case.out / 'pictures' / 'attention.png'}")


def attribute(case: Case) -> None:
    """What each part adds to the right answer's logit."""
    lines, error = lenses.attribution(case.subject, case.params, case.material.scored(case.items).rows)
    case.report.table("direct logit attribution: right label less the mean", ("part", "mean", "deviation"), lines)
    case.report.note(f"the parts add up to the logits within {error:.2g}")


def on_study(material: Material) -> TypeGuard[DepthMaterial]:
    """Whether a model gives direct answers and was trained on the study's data."""
    return isinstance(material, DepthMaterial) and material.study and material.experiment.config.track == "direct"


def study(case: Case) -> None:
    """The study's table under its own names, beside what each figure is worth: a run of configs/depth_pilot.yaml."""
    made = case.material
    if not on_study(made) or len(made.subject.names) < 3 or made.subject.heads < 3:
        raise UserError("study: expected a run on its data with 3 layers of 3 heads, got another; train configs/depth_pilot.yaml")
    experiment, untrained = made.experiment, made.untrained()
    lines, note = studies.accuracies(experiment, case.subject, case.params)
    case.report.table("the study's accuracy: is EOS foreseen once the whole right answer was shown?", studies.ACCURACY, lines)
    case.report.note(note)
    case.report.table("the study's probes", studies.PROBES, studies.probes(experiment, case.subject, case.params, untrained))
    case.report.table("the study's loss", studies.LOSS, studies.losses(experiment, case.subject, case.params))


QUESTIONS: dict[str, Callable[[Case], None]] = {
    "ablate": ablate,
    "probe": probe,
    "patch": patch,
    "lens": lens,
    "attention": attention,
    "attribute": attribute,
    "study": study,
}


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(prog="python -m jaxsrc.analyze", description=__doc__)
    found.add_argument("run", type=Path, metavar="RUN", help="run folder of `python -m jaxsrc.train`")
    questions = "; ".join(f"{k}: {(v.__doc__ or '').splitlines()[0]}" for k, v in QUESTIONS.items())
    found.add_argument("question", choices=[*QUESTIONS, "report"], help=f"{questions} report: all of them, on one page.")
    found.add_argument("--items", type=int, default=300, help="texts that are looked at (default 300)")
    found.add_argument("--layer", type=int, metavar="L", help="ablate: the table of one unit, a --head or the feed-forward")
    found.add_argument("--head", type=int, metavar="H", help="ablate: a head of --layer")
    found.add_argument("--checkpoint", choices=["latest", "best"], default="latest")
    found.add_argument("--device", choices=["auto", "cpu", "cuda", "metal"], default="auto")
    return found


def main(arguments: list[str]) -> int:
    args = parser().parse_args(arguments)
    if args.head is not None and args.layer is None:
        raise UserError(f"--head: expected --layer with it, got --head {args.head} alone; name the layer")
    if args.items < 8:
        raise UserError(f"--items: expected at least 8, got {args.items}; ask for more")
    runtimes.start(RuntimeConfig(device=args.device))
    opened = open_run(args.run, args.checkpoint)
    material = material_of(opened, args.run)
    report = Report(args.run)
    for note in opened.notes:
        report.note(note)
    unit = "" if args.layer is None else material.subject.units[material.subject.unit(args.layer, args.head)]
    case = Case(material, opened.params, report, args.run, args.items, unit)
    for name, question in QUESTIONS.items():
        whole = args.question == "report" and (name != "study" or on_study(material))
        if whole or args.question == name:
            report.say(f"{name}: {(question.__doc__ or '').splitlines()[0]}")
            question(case)
    report.close("analysed")
    return DONE


if __name__ == "__main__":
    command_line(main)
