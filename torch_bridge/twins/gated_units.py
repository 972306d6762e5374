"""The gated units in torch, alpha from the same parameters; a fixed or learned alpha folds to a constant on conversion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from jaxsrc.modules.feedforward import Activation
from jaxsrc.modules.gated_feedforward import AnyUnit, GateConfig
from jaxsrc.modules.gated_units import AlphaConfig, Mode
from torch_bridge.twins.parts import Tap, gelu_tanh, no_tap


@dataclass(frozen=True)
class AlphaPoint:
    """An alpha at one point of the training: mode, its start or value, its bounds, and the temperature of its entropy."""

    mode: Mode
    value: float
    low: float
    high: float
    temperature: float
    per_channel: bool


def alpha_point(alpha: AlphaConfig, progress: float) -> AlphaPoint:
    """The schedule evaluated in float64 at a share of the training; a scheduled alpha is a fixed one then."""
    t = min(max(progress, 0.0), 1.0)
    falling = 0.5 * (1 + math.cos(math.pi * t))
    share = {"cosine": falling, "reversed": 1 - falling, "linear": t}
    if alpha.kind in share:
        value = alpha.low + (alpha.high - alpha.low) * share[alpha.kind]
        return AlphaPoint("fixed", value, 0.0, 1.0, 1.0, False)
    return AlphaPoint(alpha.kind, alpha.value, alpha.low, alpha.high, alpha.temperature, alpha.per == "channel")


class Alpha(nn.Module):
    """The share of the gate, from parameters where it is learned, from the input where it is its entropy."""

    def __init__(self, point: AlphaPoint, hidden: int):
        super().__init__()
        self.point = point
        if point.mode == "learnable":
            self.shift = nn.Parameter(torch.zeros((hidden,) if point.per_channel else ()))

    def forward(self, x: Tensor) -> Tensor:
        p = self.point
        if p.mode == "learnable":
            return torch.sigmoid(self.shift + (math.log(p.value) - math.log1p(-p.value)))
        if p.mode == "entropy":
            log_p = functional.log_softmax(x / p.temperature, -1)
            entropy = -torch.sum(torch.exp(log_p) * log_p, -1, keepdim=True) / math.log(x.shape[-1])
            return p.low + (p.high - p.low) * entropy
        return torch.full((), p.value, dtype=x.dtype)


def gate(unit: AnyUnit, b: Tensor, beta: Tensor | None) -> Tensor:
    if unit == "paGLU":
        return torch.sigmoid(b)
    if unit == "paGTU":
        return torch.tanh(b)
    if unit == "paReGLU":
        return torch.relu(b)
    if unit == "paGELU":
        return functional.gelu(b)
    if unit == "paMishU":
        return b * torch.tanh(functional.softplus(b))
    return b * torch.sigmoid(b if beta is None else beta * b)


class GatedUnit(nn.Module):
    """value * (alpha * GateNorm(act(gate)) + 1 - alpha)."""

    def __init__(self, width: int, hidden: int, unit: AnyUnit, point: AlphaPoint, gate_norm: bool):
        super().__init__()
        self.kind: AnyUnit = unit
        self.value, self.gate = nn.Linear(width, hidden), nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps=1e-5) if gate_norm else None
        self.beta = nn.Parameter(torch.ones(())) if unit == "paSwishU" else None
        self.alpha = Alpha(point, hidden)

    def forward(self, x: Tensor, tap: Tap, name: str) -> Tensor:
        opened = gate(self.kind, self.gate(x), self.beta)
        if self.norm is not None:
            opened = self.norm(opened)
        opened = tap(f"{name}.gate", opened)
        alpha = tap(f"{name}.alpha", self.alpha(x))
        value = torch.tanh(self.value(x)) if self.kind == "paGTU" else self.value(x)
        return value * (alpha * opened + (1 - alpha))


class PointwiseGRU(nn.Module):
    """One step of the interpolated cell from the state `value(x)`; see jaxsrc.modules.gated_recurrence."""

    def __init__(self, width: int, hidden: int, point: AlphaPoint):
        super().__init__()
        self.value, self.reset, self.update, self.candidate = (nn.Linear(width, hidden) for _ in range(4))
        self.recurrent = nn.Parameter(torch.full((3, hidden), 0.5))
        self.alpha = Alpha(point, hidden)

    def forward(self, x: Tensor, tap: Tap, name: str) -> Tensor:
        alpha = tap(f"{name}.alpha", self.alpha(x))
        opened = lambda u: alpha * torch.sigmoid(u) + (1 - alpha)
        h = self.value(x)
        r = opened(self.reset(x) + self.recurrent[0] * h)
        z = tap(f"{name}.gate", opened(self.update(x) + self.recurrent[1] * h))
        n = self.candidate(x) + self.recurrent[2] * (r * h)
        return (1 - z) * h + z * (alpha * torch.tanh(n) + (1 - alpha) * n)


class GatedFeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, unit: AnyUnit, point: AlphaPoint, gate_norm: bool):
        super().__init__()
        gru = unit == "paGRU"
        self.unit = PointwiseGRU(width, hidden, point) if gru else GatedUnit(width, hidden, unit, point, gate_norm)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor, tap: Tap = no_tap, name: str = "") -> Tensor:
        return tap(f"{name}.out", self.down(tap(f"{name}.hidden", self.unit(x, tap, name))))


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": torch.relu,
    "silu": lambda x: x * torch.sigmoid(x),
}


class FeedForward(nn.Module):
    """The plain network."""

    def __init__(self, width: int, hidden: int, activation: Activation = "gelu"):
        super().__init__()
        self.activation: Activation = activation
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor, tap: Tap, name: str) -> Tensor:
        return tap(f"{name}.out", self.down(tap(f"{name}.hidden", ACTIVATIONS[self.activation](self.up(x)))))


def feedforward(
    gate: GateConfig | None, width: int, hidden: int, activation: Activation = "gelu", progress: float = 1.0
) -> nn.Module:
    """The plain network, or the gated one where a gate is asked for; progress: see `alpha_point`."""
    if gate is None:
        return FeedForward(width, hidden, activation)
    return GatedFeedForward(width, hidden, gate.unit, alpha_point(gate.alpha, progress), gate.gate_norm)
