"""Tiny random LLaMA folders for the tests, one a variant."""

from __future__ import annotations

from torch_bridge import tiny_llama

LENGTH = 600  # beyond the original context of every scaled variant
THETA = 500_000.0
VARIANTS: dict[str, dict] = {
    "llama2": {"num_key_value_heads": 8, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
    "llama3": {"rope_parameters": {"rope_type": "default", "rope_theta": THETA}},
    "llama3.1": {"rope_parameters": {**tiny_llama.ROPE, "factor": 8.0}},
    "llama3.2, tied": {"tie_word_embeddings": True},
    "linear, biases": {
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    },
    "wide heads": {"head_dim": 32, "rms_norm_eps": 1e-6},
}
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 8, "head_dim": 8}


def make(folder, variant="llama3.2, tied", **more):
    """Write a folder; returns transformers' model."""
    return tiny_llama.make(folder, **(SMALL | VARIANTS[variant] | more))
