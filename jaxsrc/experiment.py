"""The unions of configurations and the one match that builds each; the only file that names every experiment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, assert_never

from pydantic import Field

from jaxsrc.arc_experiment import ArcConfig, ArcExperiment
from jaxsrc.depth_experiment import DepthConfig, DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.examples import Gateable
from jaxsrc.gate_config import DenseGate, GateConfig
from jaxsrc.gated import GatedExperiment
from jaxsrc.hybrid_experiment import HybridConfig, HybridExperiment
from jaxsrc.image_experiment import ImageConfig, ImageExamples
from jaxsrc.loop import TrainConfig
from jaxsrc.optim import OptimConfig
from jaxsrc.protocol import Experiment
from jaxsrc.runtime import RuntimeConfig
from jaxsrc.sweep import SweepExperiment
from jaxsrc.text_experiment import TextConfig, TextExperiment

ExperimentConfig = Annotated[ArcConfig | DepthConfig | HybridConfig | ImageConfig | TextConfig, Field(discriminator="kind")]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A whole run. name: of its folder under runs/; seed: of parameters, data order and augmentation; gate: which samples a
    step trains on, for experiments whose samples have losses of their own; its name alone will do: `gate: sundew`."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")] = "arc_sheaf"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    experiment: ExperimentConfig = field(default_factory=ArcConfig)
    gate: GateConfig | None = None
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


def build(config: RunConfig) -> Experiment:
    """The experiment of a configuration; reads no data.

    Errors: UserError for a gate before a sweep, or an experiment without per-example losses.
    """
    if isinstance(config.experiment, ImageConfig):
        return GatedExperiment(ImageExamples(config.experiment), config.gate or DenseGate())
    plain = _plain(config)
    if config.gate is None:
        return plain
    if isinstance(plain, SweepExperiment):
        raise UserError("gate: expected one run, got a sweep, whose runs share their batches; leave out the gate or the sweep")
    if not isinstance(plain, Gateable):
        raise UserError(
            f"gate: expected an experiment with a loss for each example (image, text), got kind {config.experiment.kind}; "
            "leave the gate out"
        )
    return GatedExperiment(plain.examples(), config.gate)


def _plain(config: RunConfig) -> Experiment:
    match config.experiment:
        case ArcConfig():
            return ArcExperiment(config.experiment)
        case DepthConfig():
            return DepthExperiment(config.experiment)
        case HybridConfig():
            return HybridExperiment(config.experiment)
        case ImageConfig():
            return GatedExperiment(ImageExamples(config.experiment), DenseGate())
        case TextConfig(sweep=None):
            return TextExperiment(config.experiment)
        case TextConfig():
            return SweepExperiment(config.experiment, config.optim, config.seed)
        case _:
            assert_never(config.experiment)


def with_batch(config: RunConfig, batch: int) -> RunConfig:
    """The same run with another batch size, in every stage."""
    match config.experiment:
        case ArcConfig() as arc:
            return replace(config, experiment=replace(arc, stages=tuple(replace(s, batch=batch) for s in arc.stages)))
        case DepthConfig() as depth:
            return replace(config, experiment=replace(depth, batch=batch))
        case HybridConfig() as hybrid:
            return replace(config, experiment=replace(hybrid, batch=batch))
        case ImageConfig() as image:
            return replace(config, experiment=replace(image, batch=batch))
        case TextConfig() as text:
            return replace(config, experiment=replace(text, batch=batch))
        case _:
            assert_never(config.experiment)
