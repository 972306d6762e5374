"""The trained encoder at use: leave-one-demonstration-out record and answers of a task, one forward pass a fold, no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsrc.models.sheaf_solver import SheafSolver, SheafSolverConfig
from jaxsrc.solver.candidate import Candidate
from jaxsrc.solver.episodes import Episode, StalkPair, pack, view
from jaxsrc.solver.problem import Problem
from jaxsrc.solver.readout import MODES, SHARPNESS

SIDES = (5, 10, 20, 30)
DEMONSTRATIONS = (3, 5, 10)
VIEW_ORDER = (0, 4, 2, 6, 1, 5, 3, 7)


def _bucket(size: int, sizes: Sequence[int]) -> int:
    return next(s for s in sizes if size <= s)


class LearnedSections:
    """A SheafSolver with its parameters (pure dict), applied to whole tasks in a few static shapes."""

    def __init__(self, config: SheafSolverConfig, params: Any, views: int = 1):
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: SheafSolver(config, nnx.Rngs(0))))
        self.params, self.views = params, views
        self._scores = jax.jit(partial(self._score_views, views=views))

    def _score_views(self, params: Any, episode: Episode, *, views: int) -> jax.Array:
        """float32[r, views, h*w, 10]: scores in the three readouts, one row a view (cells in the view's order)."""
        model = nnx.merge(self.graph, params)
        one = lambda which: jnp.stack(model(view(episode, which)).scores)
        return jnp.moveaxis(jax.lax.map(one, jnp.array(VIEW_ORDER[:views])), 0, 1)

    def scores(self, demonstrations: Sequence[StalkPair], query: StalkPair) -> np.ndarray:
        """float32[r, h, w, 10]: mean over views, of one query given the demonstrations, at most the first ten of them.

        The query's colours are not read.
        """
        demonstrations = demonstrations[: DEMONSTRATIONS[-1]]
        blank = StalkPair(query.sources, query.attributes, np.zeros_like(query.colors))
        side = _bucket(max(max(p.colors.shape) for p in (*demonstrations, query)), SIDES)
        slots = _bucket(len(demonstrations), DEMONSTRATIONS)
        absent = [None] * (slots - len(demonstrations))
        raw = np.asarray(self._scores(self.params, pack([*demonstrations, *absent, blank], side)))
        h, w = query.colors.shape
        total = np.zeros((len(MODES), h, w, 10), np.float32)
        for index, which in enumerate(VIEW_ORDER[: self.views]):
            turned = raw[:, index].reshape(-1, side, side, 10)
            total += _undo(turned, which)[:, :h, :w]
        return total / self.views

    def candidates(self, problem: Problem, outputs: Sequence[np.ndarray], price: float) -> list[Candidate]:
        """One candidate a readout, with the record of every demonstration predicted from the others."""
        if len(outputs) < 2 or len(outputs) > DEMONSTRATIONS[-1]:
            return []
        pairs = [StalkPair.of(s, o) for s, o in zip(problem.train, outputs, strict=True)]
        exact, loss = np.zeros(len(MODES)), np.zeros(len(MODES))
        for i, pair in enumerate(pairs):
            scores = self.scores(pairs[:i] + pairs[i + 1 :], pair)
            exact += (scores.argmax(-1) == pair.colors).all((1, 2))
            picked = np.take_along_axis(_log_softmax(SHARPNESS * scores), pair.colors[None, ..., None].astype(int), -1)
            loss += np.minimum(-picked, 14.0).mean((1, 2, 3))
        blanks = [np.zeros(s.shape, np.int8) for s in problem.test]

        def predict(mode: int) -> list[np.ndarray]:
            queries = [StalkPair.of(s, blank) for s, blank in zip(problem.test, blanks, strict=True)]
            return [self.scores(pairs, q)[mode].argmax(-1).astype(np.uint8) for q in queries]

        return [
            Candidate(
                family="learned",
                canvas=problem.name,
                sections=("learned",),
                mode=mode,
                exact=float(exact[i] / len(pairs)),
                loss=float(loss[i] / len(pairs)) + price,
                predict=partial(predict, i),
            )
            for i, mode in enumerate(MODES)
        ]


def _log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _undo(fields: np.ndarray, which: int) -> np.ndarray:
    """Inverse of `dihedral` on fields [r, h, w, c]."""
    moved = fields.swapaxes(1, 2) if which >= 4 else fields
    return np.rot90(moved, -(which % 4), axes=(1, 2))
