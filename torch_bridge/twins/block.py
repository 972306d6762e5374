"""A transformer block in torch, of the gated language model and of the vision transformer."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from jaxsrc.modules.feedforward import Activation
from jaxsrc.modules.gated_feedforward import GateConfig
from torch_bridge.twins.gated_units import feedforward
from torch_bridge.twins.parts import Attention, Tap, layer_norm


class Block(nn.Module):
    """pre: x + f(norm(x)); post: norm(x + f(x)). progress: the share of the training at which a schedule stands."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        gate: GateConfig | None,
        *,
        activation: Activation = "gelu",
        norm: Literal["pre", "post"] = "pre",
        progress: float = 1.0,
    ):
        super().__init__()
        self.pre = norm == "pre"
        self.attention = Attention(width, heads)
        self.feedforward = feedforward(gate, width, hidden, activation, progress)
        self.norm_attention, self.norm_feedforward = layer_norm(width), layer_norm(width)

    def forward(self, x: Tensor, mask: Tensor | None, tap: Tap, name: str) -> Tensor:
        first, second = self.norm_attention, self.norm_feedforward
        x = tap(f"{name}.input", x)
        x = x + self.attention(first(x) if self.pre else x, mask, tap, f"{name}.attention")
        x = tap(f"{name}.middle", x if self.pre else first(x))
        x = x + self.feedforward(second(x) if self.pre else x, tap, f"{name}.feedforward")
        return tap(f"{name}.output", x if self.pre else second(x))
