"""The vision transformer in torch: pixels in, the scaling to mean 0 and deviation 1 within the program."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jaxsrc.models.vit import ViTConfig
from torch_bridge.twins.gated_units import feedforward
from torch_bridge.twins.parts import Attention, Tap, layer_norm, no_tap


class Block(nn.Module):
    """pre: x + f(norm(x)); post: norm(x + f(x))."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        d = config.width
        self.pre = config.norm == "pre"
        self.attention = Attention(d, config.heads)
        self.feedforward = feedforward(config.gate, d, config.hidden, config.activation)
        self.norm_attention, self.norm_feedforward = layer_norm(d), layer_norm(d)

    def forward(self, x: Tensor, tap: Tap, name: str) -> Tensor:
        first, second = self.norm_attention, self.norm_feedforward
        x = tap(f"{name}.input", x)
        x = x + self.attention(first(x) if self.pre else x, None, tap, f"{name}.attention")
        x = tap(f"{name}.middle", x if self.pre else first(x))
        x = x + self.feedforward(second(x) if self.pre else x, tap, f"{name}.feedforward")
        return tap(f"{name}.output", x if self.pre else second(x))


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
        self.layers = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.head = Head(d, classes)
        self.tap: Tap = no_tap

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels / 255 - self.mean) / self.deviation
        x = self.embed(x.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)
        if self.first:
            x = torch.cat([self.extra.unsqueeze(0).expand(x.shape[0], -1, -1), x], 1)
        x = self.tap("embedding", x + self.positions)
        for i, layer in enumerate(self.layers):
            x = layer(x, self.tap, f"layer{i}")
        x = x[:, 0] if self.config.pooling == "class" else x[:, self.first :].mean(1)
        return self.tap("logits", self.head(self.tap("pooled", x)))
