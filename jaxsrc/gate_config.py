"""Which samples a step trains on: Sundew's gate and the arms that it has to beat."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, assert_never

from pydantic import BeforeValidator, Field

from jaxsrc.errors import UserError
from jaxsrc.modules import rate_control, significance
from jaxsrc.modules.rate_control import EnergyConfig
from jaxsrc.modules.significance import SignificanceConfig

Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Policy = Literal["full", "memory", "proxy", "every_k"]


@dataclass(frozen=True, kw_only=True)
class DenseGate:
    """Plain training: every sample of every epoch."""

    kind: Literal["dense"] = "dense"


@dataclass(frozen=True, kw_only=True)
class RandomGate:
    """A random subset. subset: drawn anew from each batch, or one for the whole run. At equal compute with a gate that
    scores every sample, its rate is that gate's plus the share of a forward pass, about a third."""

    kind: Literal["random"] = "random"
    rate: Rate = 0.1
    subset: Literal["batch", "fixed"] = "batch"


@dataclass(frozen=True, kw_only=True)
class RS2Gate:
    """Repeated random subsets without replacement: each epoch the next part of one shuffle (arXiv:2305.18424)."""

    kind: Literal["rs2"] = "rs2"
    rate: Rate = 0.1


@dataclass(frozen=True, kw_only=True)
class TopKGate:
    """The largest losses of the candidates, all of them scored by a forward pass (arXiv:1511.06343, its greedy limit)."""

    kind: Literal["topk"] = "topk"
    rate: Rate = 0.1


@dataclass(frozen=True, kw_only=True)
class SelectiveBackpropGate:
    """Chances by the loss's percentile among the candidates to the power `beta` (arXiv:1910.00762)."""

    kind: Literal["selective_backprop"] = "selective_backprop"
    rate: Rate = 0.1
    beta: Annotated[float, Field(gt=0)] = 1.0
    last: Share = 0.1


@dataclass(frozen=True, kw_only=True)
class InfoBatchGate:
    """Samples whose remembered loss lies below the mean are left out with chance `prune`, and count 1 / (1 - prune) where
    they stay; the last steps take all (arXiv:2303.04947). Its batches are filled up here, so that all have one size."""

    kind: Literal["infobatch"] = "infobatch"
    prune: Share = 0.5
    last: Share = 0.125


@dataclass(frozen=True, kw_only=True)
class ImportanceGate:
    """Chances by the gradient's length, weights that make the mean gradient right (arXiv:1803.00942). scored: by a forward
    pass of every candidate, or from memory; mixed: share of a uniform draw; clip: see `selection.unbiased_weights`."""

    kind: Literal["importance"] = "importance"
    rate: Rate = 0.1
    scored: Literal["full", "memory"] = "full"
    mixed: Annotated[float, Field(gt=0, le=1)] = 0.2
    clip: Annotated[float, Field(gt=0)] = 5.0


@dataclass(frozen=True, kw_only=True)
class SundewGate:
    """Significance against a threshold that holds the rate. policy: where significance comes from: a forward pass of every
    candidate (full), what the sample's own last training step showed (memory), a head after an early layer (proxy), or a
    forward pass of every candidate once in `every` steps (every_k).

    significance: weights of its parts; temperature: softness of the gate in ln s; mixed: share of a uniform draw; cap: see
    `significance.capped`; drop, doubt: the largest share of the candidates that is left out where |p - y| exceeds `doubt`,
    see `significance.doubtful`, not in the warm-up and never where `unbiased`; age: times that a sample is trained on the
    average, after which memory has faded to 1/e; refractory: epochs for which a trained sample rests, but for the uniform
    share; probe: epochs unseen after which a sample counts as most significant, 0 for never; warmup, last: shares of the
    steps, first and last, that draw uniformly; unbiased: weigh samples so that the mean gradient is right; clip: see
    `selection.unbiased_weights`; proxy_loss: weight of the early head's loss; energy: an account that bounds the rate, None
    for none; fall_back: train densely where scoring costs more than it can save.
    """

    kind: Literal["sundew"] = "sundew"
    rate: Rate = 0.1
    policy: Policy = "memory"
    every: Annotated[int, Field(ge=2)] = 4
    significance: SignificanceConfig = field(
        default_factory=lambda: SignificanceConfig(loss=0.0, gradient=1.0, spread=0.0)
    )
    temperature: Annotated[float, Field(gt=0)] = 0.5
    mixed: Annotated[float, Field(ge=0, le=1)] = 0.3
    cap: Annotated[float, Field(gt=0, le=1)] = 1.0
    drop: Share = 0.3
    doubt: Annotated[float, Field(ge=0)] = 1.1
    age: Annotated[float, Field(gt=0)] = 20.0
    refractory: Annotated[float, Field(ge=0)] = 0.0
    probe: Annotated[float, Field(ge=0)] = 0.0
    warmup: Share = 0.1
    last: Share = 0.2
    unbiased: bool = False
    clip: Annotated[float, Field(gt=0)] = 5.0
    proxy_loss: Annotated[float, Field(ge=0)] = 0.3
    energy: EnergyConfig | None = None
    fall_back: bool = True


Gate = (
    DenseGate | RandomGate | RS2Gate | TopKGate | SelectiveBackpropGate | InfoBatchGate | ImportanceGate | SundewGate
)


def _named(value: Any) -> Any:
    """`gate: sundew` for `gate: {kind: sundew}`."""
    return {"kind": value} if isinstance(value, str) else value


GateConfig = Annotated[Gate, Field(discriminator="kind"), BeforeValidator(_named)]

FORWARD = 1 / 3  # share of a forward pass in a training step, where the backward pass costs two
MARGIN = 0.85  # of a dense epoch that a gate may cost before it falls back; the rest is its own arithmetic on small models


def rate_of(gate: Gate) -> float:
    """Share of the samples that are trained on, in the steps that select."""
    match gate:
        case DenseGate():
            return 1.0
        case InfoBatchGate():
            return 1 - gate.prune / 2
        case _:
            return gate.rate


def takes_all(gate: Gate) -> bool:
    """Whether every sample of a batch is trained on; a subset, where there is one, is made where batches are made."""
    match gate:
        case DenseGate() | RS2Gate() | RandomGate(subset="fixed"):
            return True
        case RandomGate() | TopKGate() | SelectiveBackpropGate() | InfoBatchGate() | ImportanceGate() | SundewGate():
            return False
        case _:
            assert_never(gate)


def scoring(gate: Gate, early: float = FORWARD) -> float:
    """Share of a dense epoch's cost that scoring takes, at a forward pass of a third of a step; early: of the proxy's head."""
    match gate:
        case TopKGate() | SelectiveBackpropGate():
            return FORWARD
        case ImportanceGate(scored="full") | SundewGate(policy="full"):
            return FORWARD
        case SundewGate(policy="every_k"):
            return FORWARD / gate.every
        case SundewGate(policy="proxy"):
            return early * FORWARD
        case _:
            return 0.0


def effective(gate: Gate, early: float = 0.5) -> Gate:
    """The gate, or dense training where it is Sundew's and its cost would eat up what it saves."""
    if isinstance(gate, SundewGate) and gate.fall_back and gate.rate + scoring(gate, early) > MARGIN:
        return DenseGate()
    return gate


@dataclass(frozen=True)
class Sizes:
    """candidates: samples weighed a step; capacity: places of a step; passed: samples of the data set that a step stands
    for, the candidates and those that were left out before; steps: of the whole training."""

    candidates: int
    capacity: int
    passed: float
    steps: int


def sizes(gate: Gate, count: int, batch: int, epochs: int | float, steps: int = 0) -> Sizes:
    """Of a gate over `count` samples: as many candidates as fill a batch at its rate, at most all of them.

    An epoch has passed when every sample was a candidate once. steps: instead of the epochs' if not 0.
    """
    if batch > count:
        raise UserError(f"batch: expected at most the {count} training samples, got {batch}; lower it")
    rate = rate_of(gate)
    if takes_all(gate):
        return Sizes(batch, batch, batch / rate, steps or max(round(epochs * count * rate / batch), 1))
    candidates = min(int(batch / rate), count)
    if rate * candidates < 1:
        rate_control.check(rate, candidates, 1, None)
    capacity = min(math.ceil(rate * candidates - 1e-9), candidates)
    return Sizes(candidates, capacity, float(candidates), steps or max(round(epochs * count / candidates), 1))


def check(gate: Gate, found: Sizes) -> None:
    """UserError for a rate that cannot be held, and for weights that sum to zero."""
    if isinstance(gate, SundewGate):
        significance.check(gate.significance)
        rate_control.check(gate.rate, found.candidates, found.capacity, gate.energy)
        if gate.warmup + gate.last >= 1:
            raise UserError(f"gate.warmup and gate.last: expected a sum below 1, got {gate.warmup + gate.last:g}; lower one")
