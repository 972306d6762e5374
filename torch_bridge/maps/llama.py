"""Names of a LLaMA's tensors, ours (`jaxsrc.models.llama.names`) and Hugging Face's; shapes are the same on both sides."""

from __future__ import annotations

import re

from jaxsrc.models.llama import names
from jaxsrc.models.llama_config import LlamaConfig

PARTS = {
    **{p: f"self_attn.{p}_proj" for p in ("q", "k", "v", "o")},
    **{p: f"mlp.{p}_proj" for p in ("gate", "up", "down")},
}
NORMS = {"norm_attention": "input_layernorm.weight", "norm_mlp": "post_attention_layernorm.weight"}
TOP = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "head": "lm_head.weight"}
IGNORED = re.compile(r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq")  # a constant that older files carry


def theirs(name: str) -> str:
    """Hugging Face's name of one of our tensors."""
    if name in TOP:
        return TOP[name]
    _, index, part = name.split(".")
    at = f"model.layers.{index}."
    if part in NORMS:
        return at + NORMS[part]
    if part.endswith("_bias"):
        return f"{at}{PARTS[part.removesuffix('_bias')]}.bias"
    return f"{at}{PARTS[part]}.weight"


def table(config: LlamaConfig) -> dict[str, str]:
    """Our name -> theirs, of every tensor."""
    return {name: theirs(name) for name in names(config)}
