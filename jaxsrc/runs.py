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
from jaxsrc.protocol import Carried, Experiment, PyTree
from jaxsrc.state import init_state
from jaxsrc.sweep import SweepExperiment


@dataclass(frozen=True)
class OpenRun:
    """config as trained; params: the moving average if the run keeps one; meta of the checkpoint; notes on damage; carry:
    what the model updates itself, which the experiment has taken."""

    config: RunConfig
    experiment: Experiment
    params: PyTree
    meta: Meta
    notes: list[str]
    carry: PyTree = ()


def open_run(run: Path, which: str = "latest", member: int | None = None) -> OpenRun:
    """Read RUN/config.yaml and restore a checkpoint ('latest' or 'best') onto the default device.

    member: which run of a sweep to open, as an experiment of its own; the whole sweep where None.
    Errors: UserError where the folder is no run, no checkpoint of it can be read, or there is no such member.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"expected a run folder with a config.yaml, got {run}; train one: python -m jaxsrc.train --out {run}")
    config = configuration.load(RunConfig, path)
    experiment = build(config)
    _check_member(experiment, member, run)
    scaled = config.runtime.precision == "float16"
    if isinstance(experiment, SweepExperiment):
        sweep = experiment
        shapes = jax.eval_shape(lambda: sweep.init_state(scaled=scaled))
    else:
        optimizer = make_optimizer(config.optim, total_steps(experiment.stages))
        ema = config.optim.ema > 0
        shapes = jax.eval_shape(lambda: init_state(experiment, optimizer, config.seed, ema=ema, scaled=scaled))
    device = jax.config.values["jax_default_device"] or jax.local_devices()[0]
    if not any((run / which_folder(which)).glob("*")):
        raise UserError(f"expected a checkpoint in {run / which_folder(which)}, got none; train first, or use the other one")
    name = "params" if shapes.ema is None else "ema"
    checkpoints = Checkpoints(run, read_only=True)
    wanted = abstract(shapes.best_params, jax.sharding.SingleDeviceSharding(device))
    carry = abstract(shapes.carry, jax.sharding.SingleDeviceSharding(device))
    asked = {name: wanted} | ({"carry": carry} if isinstance(experiment, Carried) else {})
    restored = checkpoints.restore(asked, which, part=True)
    checkpoints.close()
    params, carry = restored.state[name], restored.state.get("carry", ())
    if isinstance(experiment, SweepExperiment) and member is not None:
        carry = jax.tree.map(lambda x: x[member], carry["of"])
        experiment, params = experiment.member_experiment(member), experiment.member_params(params, member)
    if isinstance(experiment, Carried):
        experiment.take(carry)
    return OpenRun(config, experiment, params, restored.meta, restored.notes, carry)


def _check_member(experiment: Experiment, member: int | None, run: Path) -> None:
    if member is None:
        return
    if not isinstance(experiment, SweepExperiment):
        raise UserError(f"expected a sweep for --member, got {run}, which is one run; leave --member out")
    if not 0 <= member < len(experiment.members):
        names = "; ".join(f"{i}: {m.name}" for i, m in enumerate(experiment.members))
        raise UserError(f"--member: expected 0 to {len(experiment.members) - 1}, got {member}; the runs are {names}")


def which_folder(which: str) -> str:
    return "best" if which == "best" else "checkpoints"
