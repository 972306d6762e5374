"""The study's own table under its own names, from a run on its data, and beside each figure what it is worth."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxsrc.analysis.depth_subject import characters_of, depth_rows
from jaxsrc.analysis.probe import probe_sites
from jaxsrc.analysis.probing import Characters, features, sites, tables
from jaxsrc.analysis.subject import Rows, Subject, score
from jaxsrc.data.expression_study import entropy, predicted, study_data
from jaxsrc.data.expression_text import EOS, PAD
from jaxsrc.data.expressions import Expression
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.modules.taps import Edit, Taps
from jaxsrc.protocol import PyTree
from jaxsrc.statistics import mcnemar

HEAD = ("layer2", 2)
SETS = {"flat": "95 - 96", "paren": "90 - 92", "depth3": "93.0"}
ACCURACY = ("what it calls accuracy", "study, %", "this run, %", "constant EOS, %", "greedy exact match, %")
PROBES = ("probe of depth > 0", "study, %", "this run, %", "random model, %", "token and position, %", "majority, %")
LOSS = ("best validation loss", "study", "this run", "least possible on fresh expressions")


def foreseen(
    subject: Subject, params: PyTree, rows: Rows, edits: dict[str, Edit] | None = None
) -> tuple[Bool[np.ndarray, "b"], Bool[np.ndarray, "b"], float]:
    """Of each row, once the whole right answer was shown: is EOS the likeliest, and is all of the answer (greedy exact match);
    and the mean cross-entropy of all tokens, the expression's too."""

    @jax.jit
    def look(params: PyTree, rows: Rows) -> tuple[Array, Array, Array]:
        logits = subject.forward(params, rows, Taps(edits=edits))
        end = rows.labels == EOS
        eos = ((logits.argmax(-1) == EOS) & end).any(-1)
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), rows.labels[..., None], -1)[..., 0]
        live = rows.labels != PAD
        return eos, score(logits, rows)[1], -(picked * live).sum() / live.sum()

    eos, exact, loss = look(params, rows)
    return np.asarray(eos), np.asarray(exact), float(loss)


def accuracies(experiment: DepthExperiment, subject: Subject, params: PyTree) -> tuple[list[list], str]:
    """Lines of ACCURACY, and what McNemar's test says of the head that the study names."""
    name, head = HEAD
    off: dict[str, Edit] = {f"{name}.attention.heads": lambda v: v.at[:, :, head].set(0)}
    percent = lambda x: f"{100 * float(np.mean(x)):.1f}"
    lines, drops, without = [], {}, []
    for key, theirs in SETS.items():
        rows = depth_rows(experiment, study_data().split(key))
        eos, exact, _ = foreseen(subject, params, rows)
        lost, lost_exact, _ = foreseen(subject, params, rows, off)
        drops[key] = 100 * (eos.mean() - lost.mean())
        lines.append([f"{key} (EOS after the right answer)", theirs, percent(eos), "100.0", percent(exact)])
        if key == "depth3":
            without = [f"{key} without L2-H2", "91.0", percent(lost), "100.0", percent(lost_exact)]
            p = mcnemar(eos, lost)
    impact = drops["paren"] - drops["flat"]
    lines += [without, ["impact of L2-H2, points: paren less flat", "+4", f"{impact:+.1f}", "0.0", ""]]
    changed = f"L2-H2 on depth3, EOS with and without it: p {p:.2g} (McNemar), before any correction for {len(subject.names)} "
    return lines, changed + f"x {subject.heads} heads"


def _site(subject: Subject, found: tuple[np.ndarray, np.ndarray], name: str) -> Float[np.ndarray, "1 c d"]:
    for names, values in zip(sites(subject), found, strict=True):
        if name in names:
            return values[names.index(name)][None]
    raise KeyError(name)


def _probed(subject: Subject, params: PyTree, fit: Characters, test: Characters, names: Sequence[str]) -> list[float]:
    """Share right of a logistic probe as the study fits it: raw features, strength 1."""
    a, b = features(subject, params, fit), features(subject, params, test)
    found = []
    for name in names:
        x, y = (jnp.asarray(_site(subject, f, name)) for f in (a, b))
        guess, _ = probe_sites(x, jnp.asarray(fit.labels), y, classes=2)
        found.append(float((np.asarray(guess)[0] == test.labels).mean()))
    return found


def probed_sets(experiment: DepthExperiment) -> tuple[Characters, Characters]:
    """Characters that the study's probes are fitted to and tested on: of its expressions with parentheses."""
    data = study_data()
    parens: list[Expression] = [e for e in data.train if "(" in e.text]
    return characters_of(experiment, parens, True, 2), characters_of(experiment, data.paren, True, 2)


def probes(experiment: DepthExperiment, subject: Subject, params: PyTree, untrained: PyTree) -> list[list]:
    """Lines of PROBES."""
    fit, test = probed_sets(experiment)
    controls = tables(fit, test, 2)
    last = subject.names[-1]
    names = {f"{HEAD[0]}.head{HEAD[1]}": ("L2-H2", "89.16"), f"{last} stream": (f"residual stream after {last}", "99.91")}
    shares = zip(*(_probed(subject, p, fit, test, list(names)) for p in (params, untrained)), strict=True)
    cells = [[f"{100 * v:.2f}" for v in (*pair, controls["token and position"], controls["majority"])] for pair in shares]
    return [[shown, theirs, *row] for (shown, theirs), row in zip(names.values(), cells, strict=True)]


def losses(experiment: DepthExperiment, subject: Subject, params: PyTree) -> list[list]:
    """The line of LOSS: nats a token, every token counted."""
    found = foreseen(subject, params, depth_rows(experiment, study_data().val))[2]
    return [["nats a token", "0.2143", f"{found:.4f}", f"{entropy() / predicted(experiment.training):.3f}"]]
