"""Weights of the vision transformer; the early head, which the exported program leaves out, is named as left out."""

from __future__ import annotations

import numpy as np

from jaxsrc.models.vit import ViTConfig
from torch_bridge.maps.gated_lm import feedforward, norm
from torch_bridge.weights import Row, Transform, WeightMap, linear

EXIT = "exit"  # parameters of the early head


def squares(size: int) -> Transform:
    """Our [size * size * channels, width], rows of a square from the top, and torch's [width, channels, size, size]."""
    ours = lambda x: np.transpose(x, (2, 3, 1, 0)).reshape(-1, x.shape[0])
    theirs = lambda x: np.transpose(x.reshape(size, size, -1, x.shape[1]), (3, 2, 0, 1))
    return Transform(ours, theirs)


def weight_map(config: ViTConfig) -> WeightMap:
    rows = [Row("embed.weight", "embed.kernel", squares(config.patch)), Row("embed.bias", "embed.bias")]
    rows += [Row("positions", "positions"), *norm("head.norm", "head.norm"), *linear("head.out", "head.out")]
    if config.registers or config.pooling == "class":
        rows.append(Row("extra", "extra"))
    for i in range(config.layers):
        block = f"layers.{i}"
        rows += [row for p in "qkvo" for row in linear(f"{block}.attention.{p}", f"{block}.attention.{p}")]
        rows += feedforward(config.gate, f"{block}.feedforward")
        rows += norm(f"{block}.norm_attention", f"{block}.norm_attention")
        rows += norm(f"{block}.norm_feedforward", f"{block}.norm_feedforward")
    return WeightMap(rows)
