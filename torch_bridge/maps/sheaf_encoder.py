"""Weights of the sheaf solver's encoder; what only the closed-form readout uses is named as left out."""

from __future__ import annotations

from jaxsrc.models.sheaf_solver import SheafSolverConfig
from torch_bridge.weights import WeightMap, linear

READOUT = ("ridge", "sharpness")  # parameters of the extension and the loss, which the encoder does not have


def weight_map(config: SheafSolverConfig) -> WeightMap:
    names = ["embed", "pair_in", "pair_out", "code_out", "code_in", "gate", "key"]
    parts = ["maps", "inner", "outer", "code", "up", "down", *(["long"] if config.long_range else [])]
    names += [f"layers.{i}.{p}" for i in range(config.layers) for p in parts]
    twin = lambda name: name.replace(".code", ".condition")
    return WeightMap([row for n in names for row in linear(twin(n), n)])
