"""What the questions are put to: a model's pieces, and the texts that they look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool

from jaxsrc.analysis.depth_subject import characters, characters_of, depth_rows, depth_subject, matched
from jaxsrc.analysis.probing import Characters
from jaxsrc.analysis.subject import Rows, Subject
from jaxsrc.data.expression_study import study_data
from jaxsrc.data.expressions import Expression
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.protocol import PyTree


@dataclass(frozen=True)
class Scored:
    """Rows with answers; nested: which of them lie deep; name: what a row is."""

    rows: Rows
    nested: Bool[np.ndarray, "b"]
    name: str


@dataclass(frozen=True)
class Pairs:
    """Rows that differ in one token, and in their answers for it; tokens: what those of the first row are; name: of the first."""

    clean: Rows
    corrupt: Rows
    tokens: list[str]
    name: str


@runtime_checkable  # the tests check argument types
class Material(Protocol):
    """items: how many texts to look at, about."""

    @property
    def subject(self) -> Subject: ...

    def untrained(self) -> PyTree:
        """Parameters of the same model before any training."""
        ...

    def scored(self, items: int) -> Scored:
        """What ablation, lens, attribution and erasing look at."""
        ...

    def probed(self, items: int, binary: bool) -> tuple[Sequence[Characters], int]:
        """Characters to fit probes to, to test them on, and deeper ones; and how many labels there are."""
        ...

    def pairs(self, items: int) -> Pairs:
        """What patching looks at."""
        ...

    def shown(self) -> tuple[Rows, list[str], str]:
        """One row for a picture of attention, its tokens, and its text."""
        ...


class DepthMaterial:
    """Fresh expressions; the study's own test sets where the model was trained on its data."""

    def __init__(self, experiment: DepthExperiment):
        self.experiment = experiment
        self.subject = depth_subject(experiment)
        self.study = experiment.config.data.source == "study"

    def expressions(self, depths: Sequence[int], count: int, seed: int = 2) -> list[Expression]:
        """Of every depth equally many."""
        return [e for d in depths for e in self.experiment.tests(d, -(-count // len(depths)), seed=seed)][:count]

    def untrained(self) -> PyTree:
        return self.experiment.init(jax.random.key(10**6))[0]

    def scored(self, items: int) -> Scored:
        data = study_data()
        chosen = [*data.flat, *data.paren] if self.study else self.expressions((0, 1, 2), items)
        return Scored(depth_rows(self.experiment, chosen), np.array([e.nesting > 0 for e in chosen]), "expressions")

    def probed(self, items: int, binary: bool) -> tuple[Sequence[Characters], int]:
        if self.study:
            data = study_data()
            fit, test, deeper = [e for e in data.train if "(" in e.text], data.paren, data.depth3
        else:
            fit = self.expressions((1, 2), 2 * items, seed=3)
            test, deeper = self.expressions((1, 2), items, seed=4), self.expressions((3,), items, seed=4)
            known = {e.text for e in fit}
            test = [e for e in test if e.text not in known]
        classes = 2 if binary else 1 + max(e.nesting for e in [*fit, *test, *deeper])
        return [characters_of(self.experiment, part, binary, classes) for part in (fit, test, deeper)], classes

    def pairs(self, items: int) -> Pairs:
        rewrite = self.experiment.config.track == "rewrite"  # its marks depend on operators where there are several in a group
        found = self.expressions((0,) if rewrite else (1,), 8 * items, seed=5)
        pairs = matched([e for e in found if sum(c in "+-*" for c in e.text) >= 2] if rewrite else found, items)
        clean, corrupt = (depth_rows(self.experiment, [p[i] for p in pairs]) for i in (0, 1))
        n = min(clean.tokens.shape[1], corrupt.tokens.shape[1])
        cut = lambda rows: jax.tree.map(lambda x: x[:, :n] if x.ndim == 2 else x, rows)
        tokens = characters(self.experiment, np.asarray(clean.tokens[0])[:n])
        return Pairs(cut(clean), cut(corrupt), tokens, f"{pairs[0][0].text} and {pairs[0][1].text}")

    def shown(self) -> tuple[Rows, list[str], str]:
        item = self.expressions((2,), 1)[0]
        rows = depth_rows(self.experiment, [item])
        return rows, characters(self.experiment, np.asarray(rows.tokens[0])), item.text
