"""What a Hugging Face config.json says of a LLaMA, in both dialects, refused where our model would compute something else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxsrc.errors import UserError
from jaxsrc.modules.rotary_scaling import Scaling

ROPE_TYPES = ("default", "linear", "llama3")
NEEDED = {
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "linear": ("factor",),
}


@dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """width: of the residual stream; inner: of the feed-forward network; tied: logits use the embedding; attention_bias: of
    all four projections; context: positions that the model was made for."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float = 1e-5
    theta: float = 10_000.0
    scaling: Scaling = field(default_factory=Scaling)
    tied: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    context: int = 2048
    bos: int | None = None

    @property
    def parameters(self) -> int:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.width * (2 * q + 2 * kv) + self.attention_bias * (q + 2 * kv + self.width)
        mlp = 3 * self.width * self.inner + self.mlp_bias * (2 * self.inner + self.width)
        each = attention + mlp + 2 * self.width
        return self.layers * each + self.vocabulary * self.width * (1 if self.tied else 2) + self.width


def _rope(raw: Mapping[str, Any], problems: list[str]) -> tuple[float, Scaling]:
    """(theta, scaling) from rope_parameters (transformers 5) or rope_theta and rope_scaling (4 and older)."""
    told = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    theta = float(told.get("rope_theta", raw.get("rope_theta", 10_000.0)))
    kind = told.get("rope_type", told.get("type", "default"))
    if kind not in ROPE_TYPES:
        problems.append(f"rope_type: expected one of {', '.join(ROPE_TYPES)}, got {kind!r}")
        return theta, Scaling()
    missing = [n for n in NEEDED.get(kind, ()) if n not in told]
    if missing:
        problems.append(f"rope scaling {kind}: expected {', '.join(missing)}, got none")
        return theta, Scaling()
    if kind == "llama3":
        values = [told[n] for n in NEEDED["llama3"]]
        return theta, Scaling(
            kind="llama3", factor=float(values[0]), low=float(values[1]), high=float(values[2]), original=int(values[3])
        )
    return theta, Scaling(kind=kind, factor=float(told.get("factor", 1.0)))


def read_config(raw: Mapping[str, Any], where: str) -> LlamaConfig:
    """The configuration; every problem at once in a UserError, each with its key, what was expected and what came."""
    problems: list[str] = []
    kind = raw.get("model_type")
    if kind != "llama":
        raise UserError(f"{where}: model_type: expected llama, got {kind!r}; this architecture is not read")
    for key, wanted in (("hidden_act", "silu"), ("sliding_window", None), ("quantization_config", None)):
        got = raw.get(key, wanted)
        if got != wanted:
            problems.append(f"{key}: expected {wanted}, got {got!r}")
    architectures = raw.get("architectures") or ["LlamaForCausalLM"]
    if architectures != ["LlamaForCausalLM"]:
        problems.append(f"architectures: expected LlamaForCausalLM, got {', '.join(map(str, architectures))}")
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for key in sizes:
        if not isinstance(raw.get(key), int) or raw[key] < 1:
            problems.append(f"{key}: expected a positive whole number, got {raw.get(key)!r}")
    theta, scaling = _rope(raw, problems)
    if problems:
        raise UserError("\n".join(f"{where}: {p}" for p in problems))
    heads, width = raw["num_attention_heads"], raw["hidden_size"]
    kv = raw.get("num_key_value_heads") or heads
    dim = raw.get("head_dim") or width // heads
    if heads % kv:
        problems.append(f"num_key_value_heads: expected a divisor of the {heads} heads, got {kv}")
    if not raw.get("head_dim") and width % heads:
        problems.append(f"num_attention_heads: expected a divisor of hidden_size {width}, got {heads}")
    if dim % 2:
        problems.append(f"head_dim: expected an even number, got {dim}")
    if problems:
        raise UserError("\n".join(f"{where}: {p}" for p in problems))
    bos = raw.get("bos_token_id")
    return LlamaConfig(
        vocabulary=raw["vocab_size"],
        width=width,
        inner=raw["intermediate_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=kv,
        head_dim=dim,
        epsilon=float(raw.get("rms_norm_eps", 1e-6)),
        theta=theta,
        scaling=scaling,
        tied=bool(raw.get("tie_word_embeddings", False)),
        attention_bias=bool(raw.get("attention_bias", False)),
        mlp_bias=bool(raw.get("mlp_bias", False)),
        context=int(raw.get("max_position_embeddings", 2048)),
        bos=bos if isinstance(bos, int) else None,
    )
