"""Greedy exact match of a depth run by depth, length and operators, with intervals; teacher-forced figures under that name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsrc.data.expression_study import entropy, predicted, study_data
from jaxsrc.data.expression_text import EOS
from jaxsrc.data.expressions import Expression, overlap, read
from jaxsrc.depth_data import answer_row, prompt_row, sequence_pool
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.plots import depth as pictures
from jaxsrc.protocol import PyTree
from jaxsrc.report import Report, records
from jaxsrc.runs import OpenRun
from jaxsrc.scoring import wilson

DEPTHS = (0, 1, 2, 3, 4, 5, 6, 8, 10)
COLUMNS = ("set", "items", "exact", "share", "95 % interval", "digits", "no number")
Sets = dict[str, list[Expression]]


@dataclass(frozen=True)
class Answered:
    """Expressions of a set with a model's greedy answers."""

    name: str
    items: list[Expression]
    answers: list[int | None]

    @property
    def right(self) -> np.ndarray:
        return np.array([a == e.result for a, e in zip(self.answers, self.items, strict=True)])

    def row(self, chosen: np.ndarray | None = None, name: str = "") -> list:
        """A line of the table, of all items or of some."""
        at = np.arange(len(self.items)) if chosen is None else np.flatnonzero(chosen)
        hits = int(self.right[at].sum())
        low, high = wilson(hits, len(at))
        digits = np.mean([digit_share(self.items[i].result, self.answers[i]) for i in at])
        none = sum(self.answers[i] is None for i in at)
        share, interval = f"{100 * hits / len(at):.1f} %", f"{100 * low:.1f} - {100 * high:.1f} %"
        return [name or self.name, len(at), hits, share, interval, f"{100 * digits:.1f} %", none]


def digit_share(result: int, answer: int | None) -> float:
    """Share of the result's characters (sign and digits, aligned at the units) that the answer has."""
    if answer is None:
        return 0.0
    want, got = str(abs(result))[::-1], str(abs(answer))[::-1]
    same = sum(a == b for a, b in zip(want, got, strict=False)) + ((result < 0) == (answer < 0))
    return same / (max(len(want), len(got)) + 1)


@dataclass(frozen=True)
class TeacherForced:
    """What the model says of right answers that it is shown token by token.

    likelihood: nats of a whole answer with EOS; tokens: share of its tokens that are the most likely ones; eos: share of
    items where EOS is, after the whole right answer; rows: all tokens at once; loss: nats a token of the whole text.
    """

    likelihood: np.ndarray
    tokens: float
    eos: float
    rows: np.ndarray
    loss: float


def fits(experiment: DepthExperiment, item: Expression) -> bool:
    """Whether an expression with its right answer is no longer than what the model was trained on."""
    c = experiment.config
    return len(prompt_row(c.track, item.text)) + len(answer_row(c.track, item, c.data.reverse)) <= c.model.length + 1


def teacher_forced(experiment: DepthExperiment, params: PyTree, items: Sequence[Expression], batch: int = 200) -> TeacherForced:
    """Teacher-forced measures of the direct and steps tracks."""
    c = experiment.config
    pool = sequence_pool(c.track, items, c.model.length, c.data.reverse)

    @jax.jit
    def log_probabilities(params: PyTree, tokens: jax.Array) -> jax.Array:
        return jax.nn.log_softmax(nnx.merge(experiment.graph, params)(tokens)[0])

    answer, likely, eos, total, count = [], [], [], 0.0, 0
    for begin in range(0, len(items), batch):
        part = slice(begin, begin + batch)
        tokens, labels = pool.tokens[part].astype(np.int32), pool.labels[part].astype(np.int64)
        found = np.asarray(log_probabilities(params, jnp.asarray(tokens)))
        picked = np.take_along_axis(found, labels[..., None], -1)[..., 0]
        asked, best = labels != 0, found.argmax(-1) == labels
        mine = asked & (np.arange(labels.shape[1]) >= pool.begin[part][:, None])
        total, count = total - float((picked * asked).sum()), count + int(asked.sum())
        answer += (picked * mine).sum(1).tolist()
        likely += [row[m] for row, m in zip(best, mine, strict=True)]
        eos += best[labels == EOS].tolist()
    rows = np.array([r.all() for r in likely])
    return TeacherForced(np.array(answer), float(np.concatenate(likely).mean()), float(np.mean(eos)), rows, total / count)


def by_operators(answered: Sequence[Answered]) -> list[list]:
    """Lines by the operators that occur, over all sets."""
    whole = Answered("all", [e for a in answered for e in a.items], [x for a in answered for x in a.answers])
    kinds = np.array([e.operators for e in whole.items])
    return [whole.row(kinds == k, k) for k in sorted(set(kinds), key=lambda k: (len(k), k))]


def by_depth(answered: Sequence[Answered]) -> dict[int, tuple[int, int]]:
    """depth -> (right, items)."""
    grid = by_length(answered)
    return {d: tuple(np.sum([v for (k, _), v in grid.items() if k == d], 0).tolist()) for d in {d for d, _ in grid}}


def by_length(answered: Sequence[Answered]) -> dict[tuple[int, int], tuple[int, int]]:
    """(depth, count of numbers) -> (right, items)."""
    grid: dict[tuple[int, int], tuple[int, int]] = {}
    for part in answered:
        for item, right in zip(part.items, part.right, strict=True):
            key = (item.nesting, sum(c in "+-*" for c in item.text) + 1)
            hits, total = grid.get(key, (0, 0))
            grid[key] = (hits + int(right), total + 1)
    return grid


def learned(experiment: DepthExperiment, run: Path) -> list[tuple[int, float]]:
    """(rows seen, share exactly right) of every validation of the training."""
    return [(r["step"] * experiment.rows, r["val/exact"]) for r in records(run) if "val/exact" in r]


def test_sets(experiment: DepthExperiment, depths: Sequence[int], count: int, files: Sequence[str]) -> Sets:
    """Named sets to score: files, or fresh expressions of each depth; the study's own too where it was trained on."""
    if files:
        return {Path(f).stem: read(f)[: count or None] for f in files}
    sets = {f"depth {d}": experiment.tests(d, count) for d in depths}
    if experiment.config.data.source == "study":
        data = study_data()
        sets |= {f"study: {n}": data.split(n) for n in ("flat", "paren", "depth3")}
    return sets


def loops_table(report: Report, experiment: DepthExperiment, params: PyTree, sets: Sets) -> None:
    """Exact match where the layers are gone through less or more often than in training."""
    usual, rows = experiment.config.model.loops, []
    for loops in (usual - 1, usual + 1, 2 * usual):
        for name, items in sets.items():
            rows.append(Answered(name, items, experiment.answers(params, items, loops)).row(name=f"{name}, {loops} times"))
    report.table(f"{experiment.config.track}: layers less or more often than the {usual} times of training", COLUMNS, rows)


def teacher_forced_table(report: Report, experiment: DepthExperiment, params: PyTree, sets: Sets) -> None:
    """Measures with the right answer shown, of the items short enough; for the study's data what no model can go below."""
    rows = []
    for name, items in sets.items():
        if items:
            f = teacher_forced(experiment, params, items)
            shares = [f"{100 * x:.1f} %" for x in (f.tokens, f.rows.mean(), f.eos)]
            rows.append([name, len(f.rows), float(-f.likelihood.mean()), *shares[:2], f.loss, shares[2]])
    report.table(
        "direct: teacher-forced, the right answer shown to the model (a constant EOS has 100 % in the last column)",
        ("set", "that fit", "nats an answer", "token right", "answer right", "nats a token", "EOS after the right answer"),
        rows,
    )
    if experiment.config.data.source == "study":
        tokens = predicted(experiment.training)
        report.note(
            f"no model can have less than {entropy() / tokens:.3f} nats a token on fresh expressions of the study: "
            f"{entropy():.1f} nats are drawn at random for each, over {tokens:.1f} tokens"
        )


def draw(report: Report, track: str, answered: Sequence[Answered], curve: list[tuple[int, float]]) -> None:
    """Pictures by depth, by depth and length, and over the training."""
    folder = report.run / "pictures"
    report.picture("exact match by depth", pictures.depth_curve({track: by_depth(answered)}, folder / "depth_curve.png"))
    report.picture("exact match by depth and length", pictures.length_grid(by_length(answered), folder / "depth_length.png"))
    if curve:
        picture = pictures.learning_curve({track: [curve]}, folder / "learning_curve.png")
        report.picture("exact match on fresh expressions of the trained depths, by rows seen", picture)


def run(opened: OpenRun, out: Path, depths: Sequence[int], count: int, files: Sequence[str] = ()) -> None:
    """Tables, pictures and RUN/depth_evaluation.json."""
    experiment = opened.experiment
    if not isinstance(experiment, DepthExperiment):
        raise UserError(f"expected a run of kind depth, got another one in {out}; train configs/depth_rewrite.yaml first")
    report = Report(out)
    for note in opened.notes:
        report.note(note)
    track = experiment.config.track
    sets = test_sets(experiment, depths, count, files)
    shared = overlap({"training": experiment.training, **sets})
    if shared:
        report.note(
            f"{len(shared)} test expressions occur elsewhere, such as {shared[0][2]} in {shared[0][0]} and {shared[0][1]}"
        )
    fitting = {n: [e for e in items if track == "rewrite" or fits(experiment, e)] for n, items in sets.items()}
    longer = sum(map(len, sets.values())) - sum(map(len, fitting.values()))
    if longer:
        report.note(
            f"{longer} expressions with their answers are longer than the {experiment.config.model.length} tokens of the model's "
            "training; they are answered all the same, and left out where the answer is shown"
        )
    answered = []
    for name, items in sets.items():
        answered.append(Answered(name, items, experiment.answers(opened.params, items)))
        report.say(f"{name}: {int(answered[-1].right.sum())}/{len(items)}")
    report.table(f"{track}: greedy exact match by set", COLUMNS, [a.row() for a in answered])
    report.table(f"{track}: greedy exact match by operators", COLUMNS, by_operators(answered))
    if experiment.config.model.loops > 1 and track != "rewrite":
        loops_table(report, experiment, opened.params, sets)
    if track == "direct":
        teacher_forced_table(report, experiment, opened.params, fitting)
    curve = learned(experiment, out)
    draw(report, track, answered, curve)
    record = {
        "track": track,
        "learned": curve,
        "step": opened.meta.step,
        "seed": opened.config.seed,
        "trained": experiment.trained_depth,
        "depths": by_depth(answered),
        "sets": {a.name: {"items": len(a.items), "right": int(a.right.sum())} for a in answered},
        "wrong": [
            {"expr": e.text, "result": e.result, "answer": x}
            for a in answered
            for e, x in zip(a.items, a.answers, strict=True)
            if x != e.result
        ][:200],
    }
    (out / "depth_evaluation.json").write_text(json.dumps(record, indent=1))
    report.close("evaluated")
