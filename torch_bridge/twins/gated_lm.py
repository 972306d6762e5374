"""The gated language model in torch."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.modules.gated_feedforward import AnyUnit
from torch_bridge.twins.gated_units import FeedForward, GatedFeedForward, alpha_point
from torch_bridge.twins.parts import Attention, Tap, causal_mask, layer_norm, no_tap


class Block(nn.Module):
    """x + attention(norm(x)), then x + feedforward(norm(x))."""

    def __init__(self, config: GatedLMConfig, progress: float):
        super().__init__()
        d = config.width
        self.attention = Attention(d, config.heads)
        if config.unit == "mlp":
            self.feedforward: nn.Module = FeedForward(d, config.features)
        else:
            point = alpha_point(config.alpha, progress)
            self.feedforward = GatedFeedForward(d, config.features, cast(AnyUnit, config.unit), point, config.gate_norm)
        self.norm_attention, self.norm_feedforward = layer_norm(d), layer_norm(d)

    def forward(self, x: Tensor, mask: Tensor, tap: Tap, name: str) -> Tensor:
        x = tap(f"{name}.input", x)
        x = tap(f"{name}.middle", x + self.attention(self.norm_attention(x), mask, tap, f"{name}.attention"))
        return tap(f"{name}.output", x + self.feedforward(self.norm_feedforward(x), tap, f"{name}.feedforward"))


class GatedLMTwin(nn.Module):
    """tokens int[b, n] -> logits [b, n, vocabulary]; tap: sees, and may replace, the values that `Taps` names in JAX.

    progress: share of the training that is over, which scheduled alphas follow.
    """

    def __init__(self, config: GatedLMConfig, progress: float = 1.0):
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.length, config.width)
        self.blocks = nn.ModuleList([Block(config, progress) for _ in range(config.layers)])
        self.norm = layer_norm(config.width)
        self.register_buffer("mask", causal_mask(config.length), persistent=False)
        self.tap: Tap = no_tap

    def forward(self, tokens: Tensor) -> Tensor:
        n = tokens.shape[1]
        x = self.tap("embed", self.tokens(tokens) + self.positions.weight[:n])
        mask = cast(Tensor, self.mask)[:n, :n]
        for i, block in enumerate(self.blocks):
            x = block(x, mask, self.tap, f"block{i}")
        x = self.tap("norm", self.norm(x))
        return self.tap("logits", torch.matmul(x, self.tokens.weight.transpose(0, 1)))
