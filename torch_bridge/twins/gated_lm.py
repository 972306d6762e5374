"""The gated language model in torch."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from jaxsrc.models.gated_lm import GatedLMConfig
from torch_bridge.twins.block import Block
from torch_bridge.twins.parts import Tap, causal_mask, layer_norm, no_tap


class GatedLMTwin(nn.Module):
    """tokens int[b, n] -> logits [b, n, vocabulary]; tap: sees, and may replace, the values that `Taps` names in JAX.

    progress: share of the training that is over, which scheduled alphas follow.
    """

    def __init__(self, config: GatedLMConfig, progress: float = 1.0):
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        self.positions = nn.Embedding(config.length, config.width)
        make = lambda: Block(config.width, config.heads, config.features, config.gate, progress=progress)
        self.blocks = nn.ModuleList([make() for _ in range(config.layers)])
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
