"""The whole validation text through a trained language model: bits a byte, perplexity, and what it writes."""

from __future__ import annotations

import math

import numpy as np

from jaxsrc.leaderboard import interval
from jaxsrc.report import Report
from jaxsrc.runs import OpenRun
from jaxsrc.text_experiment import TextExperiment, measures

COLUMNS = ("text", "tokens", "nats a token", "bits per byte", "95 % interval", "perplexity", "accuracy")


def evaluate_text(opened: OpenRun, report: Report, *, limit: int = 0, label: str = "") -> dict[str, float]:
    """Table of a run's scores on its validation part; the interval is over windows. limit: windows, 0 for all."""
    experiment = opened.experiment
    assert isinstance(experiment, TextExperiment)
    scores = experiment.window_scores(opened.params, limit)
    text = experiment.text
    nats, targets, right = (float(x.sum()) for x in scores)
    found = measures(nats, targets, right, text.bytes_per_token)
    scale = math.log(2) * text.bytes_per_token
    _, low, high = interval(scores.nats / np.maximum(scores.targets, 1) / scale)
    shown = f"{low:.4f} - {high:.4f}"
    numbers = (found["loss"], found["bits_per_byte"], shown, found["perplexity"], found["accuracy"])
    report.table(f"validation{label}", COLUMNS, [(text.name, int(scores.targets.sum()), *numbers)])
    written = experiment.continuation(opened.params)
    if written is not None:
        report.say(written)
    return found
