"""The twin of a trained run, whatever its kind; the only file of the bridge that names every experiment."""

from __future__ import annotations

import json

from jaxsrc import config as configuration
from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.gated import GatedExperiment
from jaxsrc.image_experiment import ImageExamples
from jaxsrc.runs import OpenRun
from jaxsrc.sweep import SweepExperiment
from jaxsrc.text_examples import TextExamples
from jaxsrc.text_experiment import TextExperiment
from torch_bridge.exportable import Exportable
from torch_bridge.runs.arc import of_arc
from torch_bridge.runs.depth import of_depth
from torch_bridge.runs.pictures import of_images
from torch_bridge.runs.text import of_text

TWINS = "text (gated_lm), image (vit), depth (depth_transformer with softmax marking), arc (sheaf_solver's encoder)"


def exportable(opened: OpenRun) -> Exportable:
    """The twin of an opened run. Errors: UserError for a model without a twin (names those that have one)."""
    experiment = opened.experiment
    trained = experiment.data if isinstance(experiment, GatedExperiment) else experiment
    if isinstance(trained, TextExamples):
        made = of_text(trained.text, opened.params)
    elif isinstance(trained, ImageExamples):
        made = of_images(trained, opened.params)
    elif isinstance(experiment, TextExperiment):
        made = of_text(experiment, opened.params)
    elif isinstance(experiment, DepthExperiment):
        made = of_depth(experiment, opened.params)
    elif isinstance(experiment, ArcExperiment):
        made = of_arc(experiment, opened.params)
    elif isinstance(experiment, SweepExperiment):
        raise UserError(f"expected one run, got a sweep of {len(experiment.members)}; name one with --member")
    else:
        raise UserError(f"expected a model with a torch twin, got {type(experiment).__name__}; these have one: {TWINS}")
    shown = {k: v for k, v in opened.meta.metrics.items() if "/" in k} or opened.meta.metrics
    made.metadata.update(
        {
            "sheaf.run": opened.config.name,
            "sheaf.step": str(opened.meta.step),
            "sheaf.revision": opened.meta.git or "unknown",
            "sheaf.metrics": json.dumps({k: round(v, 6) for k, v in shown.items()}),
            "sheaf.config": json.dumps(configuration.to_dict(opened.config)["experiment"]),
        }
    )
    return made
