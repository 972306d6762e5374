"""A small random LLaMA with a tokenizer like LLaMA 3's, made on this machine, so that the whole path runs without a download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# digits come in groups of up to three, so a space between two digits gives each a token of its own
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"
CORPUS = [
    "Each example turns an input grid into an output grid by a rule.\n\nExample 1\nInput\n0 1 2\n3 4 5\nOutput\n6 7 8\n9 0 1\n\n",
    "Test\nInput\n012345678901234567890\n555\n000\nOutput\n",
]
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4, "num_attention_heads": 8,
             "num_key_value_heads": 2, "head_dim": 16},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
           "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True},
}  # fmt: skip
ROPE = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over LLaMA 3's split, trained on a few lines; it puts the begin token first."""
    made = Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=[BEGIN, END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(CORPUS * 4, trainer)
    start = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, made.token_to_id(BEGIN))])
    made.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), start])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BEGIN, eos_token=END)


def config(size: str = "tiny", **more: Any) -> LlamaConfig:
    base: dict[str, Any] = {
        "vocab_size": 512, "rms_norm_eps": 1e-5, "max_position_embeddings": 8192, "rope_parameters": dict(ROPE),
        "bos_token_id": 0, "eos_token_id": 1, "tie_word_embeddings": False, "pad_token_id": None,
    }  # fmt: skip
    return LlamaConfig(**(base | SHAPES[size] | more))


def magnified(made: LlamaForCausalLM, seed: int = 0) -> LlamaForCausalLM:
    """Matrices times 3 and norms 1 + 0.3 N: weights at which a wrong conversion shows (at their start most do not)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in made.named_parameters():
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float32).to(p.dtype)
            if "norm" in name:
                p.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                p.copy_(0.1 * noise)
            else:
                p.mul_(3)
    return made


def make(folder: Path, size: str = "tiny", seed: int = 0, shard: str = "400KB", **more: Any) -> LlamaForCausalLM:
    """Write a Hugging Face folder with a random model (magnified) and its tokenizer; returns the model."""
    torch.manual_seed(seed)
    made = magnified(LlamaForCausalLM(config(size, **more)), seed)
    made.save_pretrained(folder, max_shard_size=shard)
    tokenizer().save_pretrained(folder)
    return made


def older_dialect(folder: Path) -> None:
    """Rewrite config.json as transformers 4 wrote it: rope_theta, rope_scaling, torch_dtype."""
    path = folder / "config.json"
    told = json.loads(path.read_text())
    rope = told.pop("rope_parameters")
    told["rope_theta"] = rope.pop("rope_theta")
    told["rope_scaling"] = rope if rope["rope_type"] != "default" else None
    told["torch_dtype"] = told.pop("dtype", "float32")
    path.write_text(json.dumps(told, indent=2))
