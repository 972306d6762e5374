"""A page of problems with what a grid decoder answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxsrc.data.arc import Task
from jaxsrc.plots import style
from jaxsrc.plots.grids import GalleryRow, gallery_page

ROWS = 10


def page(tasks: Sequence[Task], answers: Sequence[Sequence[Sequence[np.ndarray]]], title: str, path: Path) -> Path:
    """The first test input of each task, its two best answers (none where nothing was drawn) and the truth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    found = []
    for task, ranked in list(zip(tasks, answers, strict=True))[:ROWS]:
        attempts = [a[0] if a[0].size else None for a in ranked[:2]]
        found.append(
            GalleryRow(
                title=task.id,
                scale=f"scale {task.scale}",
                demonstrations=[(p.input, p.output) for p in task.train if p.output is not None],
                test=task.test[0].input,
                attempts=[*attempts, *[None] * (2 - len(attempts))],
                truth=task.test[0].output,
            )
        )
    style.save(gallery_page(found, title=title), path)
    return path
