"""What a function lowers for: its StableHLO operations and types for a platform that need not be here."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import jax
from jax import export

# Operations that the mps plugin for JAX handles, and CUDA with it; control flow and constants included.
ALLOWED = frozenset(
    (
        *("abs", "add", "and", "bitcast_convert", "broadcast_in_dim", "broadcast", "case", "ceil", "clamp", "compare"),
        *("concatenate", "constant", "convert", "cosine", "divide", "dot_general", "dynamic_slice", "dynamic_update_slice"),
        *("exponential", "exponential_minus_one", "floor", "gather", "if", "iota", "is_finite", "log", "log_plus_one"),
        *("logistic", "maximum", "minimum", "multiply", "negate", "not", "or", "pad", "power", "reduce", "remainder"),
        *("reshape", "return", "reverse", "round_nearest_even", "round_nearest_afz", "rsqrt", "scatter", "select"),
        *("shift_left", "shift_right_logical", "shift_right_arithmetic", "sign", "sine", "slice", "sort", "sqrt"),
        *("subtract", "tanh", "transpose", "while", "xor"),
    )
)
CHLO = frozenset(["erf", "erf_inv", "top_k", "square"])
TYPES = frozenset(["f32", "f16", "bf16", "i1", "i8", "i16", "i32", "i64", "ui8", "ui16", "ui32", "ui64"])


@dataclass(frozen=True)
class Lowered:
    operations: frozenset[str]
    types: frozenset[str]
    custom_calls: frozenset[str]

    @property
    def problems(self) -> list[str]:
        """Anything beyond what is known to be supported."""
        odd = {o for o in self.operations if o.removeprefix("chlo.") not in (CHLO if o.startswith("chlo.") else ALLOWED)}
        return sorted(
            [f"operation {o}" for o in odd]
            + [f"type {t}" for t in self.types - TYPES]
            + [f"custom call {c}" for c in self.custom_calls]
        )


def lowers_for(function: Callable, *args: object, platform: str) -> Lowered:
    """Export a function for a platform and read its program; nothing is run."""
    text = export.export(jax.jit(function), platforms=(platform,))(*args).mlir_module()
    found = set(re.findall(r"\bstablehlo\.(\w+)", text)) | {f"chlo.{o}" for o in re.findall(r"\bchlo\.(\w+)", text)}
    types = re.findall(r"tensor<(?:[\d?]+x)*([a-z]+\d+(?:E\w+)?|complex<\w+>)", text)
    calls = re.findall(r"custom_call @([\w.]+)", text)
    harmless = {"Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape"}
    return Lowered(frozenset(found - {"custom_call"}), frozenset(types), frozenset(calls) - harmless)
