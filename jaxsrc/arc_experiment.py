"""ARC: episodes of tasks in, the encoder trained through the closed-form extension, scales as stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from pydantic import Field

from jaxsrc.curriculum import StageConfig
from jaxsrc.data.arc import Task, refuse_leaks, split_development, without_leaks
from jaxsrc.data.arc_files import load, training_pool
from jaxsrc.errors import UserError
from jaxsrc.models.sheaf_solver import SheafSolver, SheafSolverConfig
from jaxsrc.objective import cell_loss
from jaxsrc.protocol import Metrics, PyTree, Stage
from jaxsrc.report import Report
from jaxsrc.solver.episodes import Episode, EpisodeSampler, StalkTask, augment, stalk_task
from jaxsrc.solver.learned import LearnedSections
from jaxsrc.solver.readout import MODES
from jaxsrc.solver.sections import SOURCES
from jaxsrc.solver.solve import SolverConfig
from jaxsrc.solver.stalks import ATTRIBUTES


@dataclass(frozen=True, kw_only=True)
class ArcDataConfig:
    """train: sets to train on; exclude: sets whose tasks (by id and by content) never enter training; hold_out: keep
    about a tenth of the first set for validation and every choice; evaluate: set that evaluation scores."""

    train: tuple[str, ...] = ("arcagi1:training", "arcagi2:training")
    exclude: tuple[str, ...] = ("arcagi1:evaluation", "arcagi2:evaluation")
    hold_out: bool = True
    evaluate: str = "arcagi1:evaluation"


@dataclass(frozen=True, kw_only=True)
class ArcConfig:
    """gluing: weight of the Dirichlet energy in the loss; augment: random views and colours."""

    kind: Literal["arc"] = "arc"
    data: ArcDataConfig = field(default_factory=ArcDataConfig)
    model: SheafSolverConfig = field(default_factory=SheafSolverConfig)
    solver: SolverConfig = field(default_factory=SolverConfig)
    stages: tuple[StageConfig, ...] = (StageConfig(scale=1, steps=1000), StageConfig(scale=5))
    gluing: Annotated[float, Field(ge=0)] = 1e-3
    augment: bool = True


class ArcExperiment:
    """See `protocol.Experiment`. Data are read on the first batch or validation."""

    def __init__(self, config: ArcConfig):
        if not config.stages:
            raise UserError("experiment.stages: expected at least one stage, got none; add {scale: 1, steps: 1000}")
        self.config = config
        self.graph = nnx.graphdef(nnx.eval_shape(lambda: SheafSolver(config.model, nnx.Rngs(0))))
        self.stages: Sequence[Stage] = [
            Stage(f"{i + 1}: {c.name}", c.steps, self._batches(c)) for i, c in enumerate(config.stages)
        ]

    @cached_property
    def tasks(self) -> tuple[list[Task], list[Task]]:
        """(trained on, held out for validation)."""
        data = self.config.data
        pool = training_pool(data.train, data.exclude)
        if not data.hold_out:
            return list(pool), []
        ids = {t.id for t in load(data.train[0])}
        held = [t for t in split_development(pool).development if t.id in ids]
        training = list(without_leaks([t for t in pool if t not in held], held))
        refuse_leaks(training, held)
        return training, held

    @cached_property
    def episodes(self) -> tuple[list[StalkTask], list[StalkTask]]:
        """Training and held-out tasks, each under the first canvas that has the size of its test outputs; tasks that no canvas
        fits are left out. UserError where a task that is to be scored is trained on: now, and not after the training."""
        training, held = self.tasks
        if self.config.data.evaluate not in self.config.data.exclude:
            refuse_leaks(training, load(self.config.data.evaluate))
        found = lambda tasks: [s for t in tasks if (s := stalk_task(t)) is not None]
        return found(training), found(held)

    def _batches(self, stage: StageConfig) -> Any:
        made: list[EpisodeSampler] = []

        def batch_at(seed: int, step: int) -> Episode:
            if not made:
                made.append(EpisodeSampler(self.episodes[0], stage.side, stage.batch, stage.demonstrations))
                if not made[0].tasks:
                    raise UserError(
                        f"expected training tasks of scale {stage.scale} or smaller, got none in "
                        f"{', '.join(self.config.data.train)}; raise experiment.stages.N.scale"
                    )
            return made[0].batch_at(seed, step)

        return batch_at

    def abstract_batch(self, stage: int) -> Episode:
        c = self.config.stages[stage]
        shape = (c.batch, c.demonstrations + 1, c.side, c.side)
        int8 = lambda *more: jax.ShapeDtypeStruct((*shape, *more), jnp.int8)
        return Episode(int8(SOURCES), int8(ATTRIBUTES), int8())

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        model = SheafSolver(self.config.model, nnx.Rngs(key))
        return nnx.to_pure_dict(nnx.state(model, nnx.Param)), ()

    def loss(
        self, params: PyTree, carry: PyTree, batch: Episode, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        if train and self.config.augment:
            batch = augment(key, batch)
        model = nnx.merge(self.graph, params)
        out = jax.vmap(lambda e: model(e))(batch)
        logits = out.scores[MODES.index("both")] * jnp.exp(model.sharpness[...])
        colors = batch.colors[:, -1].reshape(len(logits), -1).astype(jnp.int32)
        loss, metrics = cell_loss(logits, colors, out.energy, self.config.gluing)
        return loss, (metrics, carry)

    def learned(self, params: PyTree, views: int = 1) -> LearnedSections:
        return LearnedSections(self.config.model, params, views)

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        """Exact match of the closed-form extension alone on the held-out tasks up to the stage's scale, by scale.

        The size of the answer is given (see `episodes`), so this is above what `evaluate --held-out` finds.
        """
        learned = self.learned(params)
        limit = self.config.stages[stage].scale
        scale = {t.id: t.scale for t in self.tasks[1] if t.scale <= limit}
        right: dict[int, list[bool]] = {s: [] for s in scale.values()}
        for task in self.episodes[1]:
            if task.id in scale:
                demos, tests = task.pairs[: task.demonstrations], task.pairs[task.demonstrations :]
                both = MODES.index("both")
                hits = [np.array_equal(learned.scores(demos, q)[both].argmax(-1), q.colors) for q in tests]
                right[scale[task.id]].append(all(hits))
        tasks = list(scale.values())
        found = {f"val/scale {s}": sum(hits) / tasks.count(s) for s, hits in sorted(right.items())}
        return {"val/exact": sum(map(sum, right.values())) / max(len(tasks), 1), **found} if tasks else {}

    def finish(self, params: PyTree, report: Report) -> None:
        training, held = self.tasks
        report.note(
            f"trained on {len(training)} tasks ({len(self.episodes[0])} with a canvas), {len(held)} held out; "
            f"next: python -m jaxsrc.evaluate {report.run}"
        )
