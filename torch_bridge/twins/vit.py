"""The vision transformer in torch: pixels in, the scaling to mean 0 and deviation 1 within the program."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jaxsrc.models.vit import ViTConfig
from torch_bridge.twins.block import Block
from torch_bridge.twins.parts import Tap, layer_norm, no_tap


class Head(nn.Module):
    def __init__(self, width: int, classes: int):
        super().__init__()
        self.norm, self.out = layer_norm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))


class ViTTwin(nn.Module):
    """pixels float[b, h, w, c] in [0, 255] -> class logits [b, classes]; the early head, if there is one, is left out.

    mean, deviation: of the data set's pixels in [0, 1].
    """

    def __init__(self, config: ViTConfig, side: int, channels: int, classes: int, mean: float, deviation: float):
        super().__init__()
        self.config, self.mean, self.deviation = config, mean, deviation
        d, size = config.width, config.patch
        self.first = config.registers + (config.pooling == "class")
        self.embed = nn.Conv2d(channels, d, size, stride=size)  # squares of pixels, as one product each
        if self.first:
            self.extra = nn.Parameter(torch.zeros(self.first, d))
        self.positions = nn.Parameter(torch.zeros(self.first + (side // size) ** 2, d))
        make = lambda: Block(d, config.heads, config.hidden, config.gate, activation=config.activation, norm=config.norm)
        self.layers = nn.ModuleList([make() for _ in range(config.layers)])
        self.head = Head(d, classes)
        self.tap: Tap = no_tap

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels / 255 - self.mean) / self.deviation
        x = self.embed(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        if self.first:
            x = torch.cat([self.extra.unsqueeze(0).expand(x.shape[0], -1, -1), x], 1)
        x = self.tap("embedding", x + self.positions)
        for i, layer in enumerate(self.layers):
            x = layer(x, None, self.tap, f"layer{i}")
        x = x[:, 0] if self.config.pooling == "class" else x[:, self.first :].mean(1)
        return self.tap("logits", self.head(self.tap("pooled", x)))
