"""Open a run folder: its configuration, its experiment, and the parameters of a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax

from jaxsrc import config as configuration
from jaxsrc.checkpoint import Checkpoints, Meta, abstract
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig, build
from jaxsrc.loop import total_steps
from jaxsrc.optim import make_optimizer
from jaxsrc.protocol import Experiment, PyTree
from jaxsrc.state import init_state


@dataclass(frozen=True)
class OpenRun:
    """config as trained; params: the moving average if the run keeps one; meta of the checkpoint; notes on damage."""

    config: RunConfig
    experiment: Experiment
    params: PyTree
    meta: Meta
    notes: list[str]


def open_run(run: Path, which: str = "latest") -> OpenRun:
    """Read RUN/config.yaml and restore a checkpoint ('latest' or 'best') onto the default device.

    Errors: UserError where the folder is no run, or no checkpoint of it can be read.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"expected a run folder with a config.yaml, got {run}; train one: python -m jaxsrc.train --out {run}")
    config = configuration.load(RunConfig, path)
    experiment = build(config)
    optimizer = make_optimizer(config.optim, total_steps(experiment.stages))
    scaled = config.runtime.precision == "float16"
    shapes = jax.eval_shape(lambda: init_state(experiment, optimizer, config.seed, ema=config.optim.ema > 0, scaled=scaled))
    device = jax.config.values["jax_default_device"] or jax.local_devices()[0]
    if not any((run / which_folder(which)).glob("*")):
        raise UserError(f"expected a checkpoint in {run / which_folder(which)}, got none; train first, or use the other one")
    name = "params" if shapes.ema is None else "ema"
    checkpoints = Checkpoints(run, read_only=True)
    wanted = abstract(shapes.best_params, jax.sharding.SingleDeviceSharding(device))
    restored = checkpoints.restore({name: wanted}, which, part=True)
    checkpoints.close()
    return OpenRun(config, experiment, restored.state[name], restored.meta, restored.notes)


def which_folder(which: str) -> str:
    return "best" if which == "best" else "checkpoints"
