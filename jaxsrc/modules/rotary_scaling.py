"""Frequencies of rotary positions for longer contexts: as they are, divided by a factor, or LLaMA 3's mixture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """kind: default, linear (f / factor), or llama3, which divides long waves by factor, keeps short ones and blends between
    original / low and original / high."""

    kind: Literal["default", "linear", "llama3"] = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original: int = 8192


def frequencies(dim: int, base: int | float, scaling: Scaling) -> Float[np.ndarray, "r"]:
    """base^(-2i / dim), scaled, float32[dim / 2].

    llama3, with wave w = 2 pi / f: f / factor where w > original / low, f where w < original / high, else with
    s = (original / w - low) / (high - low): f ((1 - s) / factor + s). Source: transformers' modeling_rope_utils.
    """
    f = 1.0 / (np.float32(base) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)))
    if scaling.kind == "linear":
        f = f / np.float32(scaling.factor)
    elif scaling.kind == "llama3":
        wave = 2 * math.pi / f
        s = (scaling.original / wave - scaling.low) / (scaling.high - scaling.low)
        blend = f * ((1 - s) / scaling.factor + s)
        long, short = wave > scaling.original / scaling.low, wave < scaling.original / scaling.high
        f = np.where(long, f / scaling.factor, np.where(short, f, blend))
    return f.astype(np.float32)
