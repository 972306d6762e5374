"""Weights of the gated language model."""

from __future__ import annotations

from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.modules.gated_feedforward import GateConfig
from torch_bridge.weights import Row, WeightMap, linear


def norm(torch_name: str, path: str) -> list[Row]:
    """Rows of a LayerNorm."""
    return [Row(f"{torch_name}.weight", f"{path}.scale"), Row(f"{torch_name}.bias", f"{path}.bias")]


def feedforward(gate: GateConfig | None, name: str, path: str = "") -> list[Row]:
    """Rows of one block's feed-forward network; path: its name here, if it is another than in torch."""
    path = path or name
    both = lambda part: linear(f"{name}.{part}", f"{path}.{part}")
    if gate is None:
        return [*both("up"), *both("down")]
    maps = ("value", "reset", "update", "candidate") if gate.unit == "paGRU" else ("value", "gate")
    rows = [row for m in maps for row in both(f"unit.{m}")] + both("down")
    if gate.unit == "paGRU":
        rows.append(Row(f"{name}.unit.recurrent", f"{path}.unit.recurrent"))
    elif gate.gate_norm:
        rows += norm(f"{name}.unit.norm", f"{path}.unit.norm.norm")
    if gate.unit == "paSwishU":
        rows.append(Row(f"{name}.unit.beta", f"{path}.unit.beta"))
    if gate.alpha.kind == "learnable":
        rows.append(Row(f"{name}.unit.alpha.shift", f"{path}.unit.shift"))
    return rows


def weight_map(config: GatedLMConfig) -> WeightMap:
    rows = [Row("tokens.weight", "tokens.embedding"), Row("positions.weight", "positions.embedding"), *norm("norm", "norm")]
    for i in range(config.layers):
        block = f"blocks.{i}"
        rows += [row for p in "qkvo" for row in linear(f"{block}.attention.{p}", f"{block}.attention.{p}")]
        rows += feedforward(config.gate, f"{block}.feedforward")
        rows += norm(f"{block}.norm_attention", f"{block}.norm_attention")
        rows += norm(f"{block}.norm_feedforward", f"{block}.norm_feedforward")
    return WeightMap(rows)
