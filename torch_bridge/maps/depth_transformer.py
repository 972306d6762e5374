"""Depth transformer: our parameters, the twin's, and the state_dict of the step-free arithmetic study."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformerConfig
from torch_bridge.maps.gated_lm import feedforward, norm
from torch_bridge.weights import Row, WeightMap, linear


def depth_transformer_map(config: DepthTransformerConfig) -> WeightMap:
    """The table of a configuration."""
    rows = [Row("token_embedding.weight", "embedding.embedding"), *norm("ln_f", "norm")]
    if config.places:
        rows.append(Row("place_embedding.weight", "place.embedding"))
    for i in range(config.layers):
        here, there = f"blocks.{i}", f"layers.{i}"
        rows += [*norm(f"{here}.ln1", f"{there}.norm_attention"), *norm(f"{here}.ln2", f"{there}.norm_feedforward")]
        for name in "qkv":
            rows += linear(f"{here}.attn.{name}_proj", f"{there}.attention.{name}", bias=False)
        rows += linear(f"{here}.attn.out_proj", f"{there}.attention.o", bias=False)
        if config.gate is None:
            rows += linear(f"{here}.ff.fc1", f"{there}.feedforward.up") + linear(f"{here}.ff.fc2", f"{there}.feedforward.down")
        else:
            rows += feedforward(config.gate, f"{here}.ff", f"{there}.feedforward")
    return WeightMap(rows)


def from_study(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The study's state_dict with our twin's names: its joint projection of queries, keys and values is taken apart, its tied
    head and its rotary buffers, which hold no number of their own, are left out.

    Errors: UserError where the head is not tied to the embedding.
    """
    found: dict[str, torch.Tensor] = {}
    head = state.get("lm_head.weight")
    if head is not None and not torch.equal(head, state["token_embedding.weight"]):
        raise UserError("expected lm_head.weight to be the embedding, got other numbers; tie it, or train it tied")
    for name, value in state.items():
        if name == "lm_head.weight" or name.endswith("rope.inv_freq"):
            continue
        if name.endswith("attn.qkv_proj.weight"):
            for part, piece in zip("qkv", value.chunk(3, 0), strict=True):
                found[name.replace("qkv_proj", f"{part}_proj")] = piece
        else:
            found[name] = value
    return found


def to_study(state: Mapping[str, torch.Tensor], config: DepthTransformerConfig) -> dict[str, torch.Tensor]:
    """Our twin's state_dict with the study's names, head and buffers."""
    found = {k: v for k, v in state.items() if not any(f".attn.{p}_proj." in k for p in "qkv")}
    d = config.width // config.heads
    for i in range(config.layers):
        at = f"blocks.{i}.attn"
        found[f"{at}.qkv_proj.weight"] = torch.cat([state[f"{at}.{p}_proj.weight"] for p in "qkv"])
        found[f"{at}.rope.inv_freq"] = 1.0 / (10_000.0 ** (torch.arange(0, d, 2).float() / d))
    found["lm_head.weight"] = state["token_embedding.weight"]
    return found
