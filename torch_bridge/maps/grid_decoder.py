"""Weights of TRM: its official checkpoints' names on one side, parameters, puzzle table and first latents on the other."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from jaxsrc.errors import UserError
from jaxsrc.models.grid_decoder import GridDecoderConfig
from torch_bridge.weights import LINEAR, Row, WeightMap, linear

PREFIXES = ("_orig_mod.", "model.", "inner.")  # of torch.compile, the loss head and the halting wrapper


def weight_map(config: GridDecoderConfig) -> WeightMap:
    """Rows of {"params", "table", "start"}; UserError for a decoder with parts that TRM has not."""
    if config.conditioning != "none" or config.correction:
        raise UserError("expected a decoder without conditioning and correction, which TRM has not, got one with them")
    rows = [
        Row("embed_tokens.embedding_weight", "params.embed"),
        Row("lm_head.weight", "params.head.kernel", LINEAR),
        *linear("q_head", "params.q"),
        Row("puzzle_emb.weights", "table"),
        Row("H_init", "start.y"),
        Row("L_init", "start.z"),
    ]
    if config.positions == "learned":
        rows.append(Row("embed_pos.embedding_weight", "params.places"))
    for i in range(config.layers):
        at, here = f"L_level.layers.{i}", f"params.blocks.{i}"
        if config.mixer == "attention":
            rows += linear(f"{at}.self_attn.qkv_proj", f"{here}.attention.qkv", bias=False)
            rows += linear(f"{at}.self_attn.o_proj", f"{here}.attention.o", bias=False)
        else:
            rows += linear(f"{at}.mlp_t.gate_up_proj", f"{here}.mix.gate_up", bias=False)
            rows += linear(f"{at}.mlp_t.down_proj", f"{here}.mix.down", bias=False)
        rows += linear(f"{at}.mlp.gate_up_proj", f"{here}.mlp.gate_up", bias=False)
        rows += linear(f"{at}.mlp.down_proj", f"{here}.mlp.down", bias=False)
    return WeightMap(rows)


def bare(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors without the names of the wrappers around the network, bfloat16 widened."""
    found = {}
    for name, value in state.items():
        for prefix in PREFIXES:
            name = name.removeprefix(prefix)
        found[name] = value.float() if value.dtype == torch.bfloat16 else value
    return found


def read_checkpoint(path: Path, config: GridDecoderConfig, like: dict[str, Any]) -> dict[str, Any]:
    """{"params", "table", "start"} shaped as `like` from an official checkpoint file; UserError with every problem."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: expected a TRM checkpoint, got {why}; name the file step_N of a run") from None
    return weight_map(config).to_jax(bare(state), like)
