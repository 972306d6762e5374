"""The test pictures through a trained model: accuracy with its interval, by class, and what is taken for what."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxsrc.data.images import CLASSES
from jaxsrc.errors import DONE
from jaxsrc.image_experiment import ImageExamples
from jaxsrc.report import Report
from jaxsrc.runs import OpenRun
from jaxsrc.scoring import wilson

COLUMNS = ("class", "pictures", "right", "accuracy", "95 % interval")


def evaluate_images(run: Path, opened: OpenRun, data: ImageExamples) -> int:
    """Table by class and over all, beside the most frequent class of the training labels."""
    report = Report(run)
    for note in opened.notes:
        report.note(note)
    loss, right = data.scores(opened.params)
    labels, known = data.data.test.labels, data.data.train.labels
    most = int(np.bincount(known, minlength=CLASSES).argmax())
    rows = []
    for name, found in [
        *((str(c), right[labels == c]) for c in range(CLASSES)),
        ("all", right),
        (f"baseline: always {most}, the most frequent", labels == most),
    ]:
        low, high = wilson(int(found.sum()), len(found))
        rows.append((name, len(found), int(found.sum()), float(found.mean()), f"{low:.4f} - {high:.4f}"))
    report.table(f"test pictures, checkpoint {opened.meta.step}", COLUMNS, rows)
    report.note(f"test loss {loss:.4f}; data: {data.data.note}")
    report.close("evaluated")
    return DONE
