"""paGating: a linear map times a share alpha of a gate, with activation and alpha as data, so that runs `vmap` over both.

y = v * (alpha * GateNorm(act(B x)) + 1 - alpha),   v = A x   (tanh(A x) in paGTU)

A and B are linear maps. alpha = 0 leaves v (linear in x, but for paGTU), alpha = 1 is the usual gated unit. paSwishU has a
learned slope beta that starts at 1; paSiLU is the same with beta = 1 for good. Formulas after github.com/guglxni/paGating.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from jaxsrc.errors import UserError
from jaxsrc.modules.linear import Linear, side_by_side
from jaxsrc.modules.norm import wide
from jaxsrc.modules.taps import NONE, Taps

Unit = Literal["paGLU", "paGTU", "paSwishU", "paReGLU", "paGELU", "paMishU", "paSiLU"]
UNITS: tuple[Unit, ...] = get_args(Unit)
Mode = Literal["fixed", "learnable", "cosine", "reversed", "linear", "entropy"]
MODES: tuple[Mode, ...] = get_args(Mode)
Share = Annotated[float, Field(ge=0, le=1)]

Branch = Callable[[Array, Array, Array], tuple[Array, Array]]
_BRANCHES: dict[Unit, Branch] = {
    "paGLU": lambda a, b, beta: (a, jax.nn.sigmoid(b)),
    "paGTU": lambda a, b, beta: (jnp.tanh(a), jnp.tanh(b)),
    "paSwishU": lambda a, b, beta: (a, b * jax.nn.sigmoid(beta.astype(b.dtype) * b)),
    "paReGLU": lambda a, b, beta: (a, jax.nn.relu(b)),
    "paGELU": lambda a, b, beta: (a, jax.nn.gelu(b, approximate=False)),
    "paMishU": lambda a, b, beta: (a, b * jnp.tanh(jax.nn.softplus(b))),
    "paSiLU": lambda a, b, beta: (a, b * jax.nn.sigmoid(b)),
}


@dataclass(frozen=True, kw_only=True)
class AlphaConfig:
    """fixed: `value`; learnable: starts at exactly `value`; over the training cosine: high to low, reversed: low to high,
    linear: low to high; entropy: high entropy of softmax(x / temperature) opens the gate, between low and high.
    per: one number a unit or one a channel, where it is learnable."""

    kind: Mode = "fixed"
    value: Share = 0.5
    low: Share = 0.0
    high: Share = 1.0
    per: Literal["unit", "channel"] = "unit"
    temperature: Annotated[float, Field(gt=0)] = 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gating:
    """Which unit and which alpha, as data. unit, mode: int32[] indices into the tuples the module was built with;
    value, low, high: float32[]; progress: float32[] in [0, 1], share of the training that is over."""

    unit: Array
    mode: Array
    value: Array
    low: Array
    high: Array
    progress: Array


@dataclass(frozen=True)
class GatingKinds:
    """What the data of a `Gating` may choose from; one each means no choice at run time and no cost of it."""

    units: tuple[Unit, ...] = ("paGLU",)
    modes: tuple[Mode, ...] = ("fixed",)
    per: Literal["unit", "channel"] = "unit"
    temperature: float = 1.0
    gate_norm: bool = False


def gating(kinds: GatingKinds, unit: Unit, alpha: AlphaConfig, progress: Array | float = 1.0) -> Gating:
    """The data of one choice.

    Errors: UserError for a learnable alpha that starts at 0 or 1 (no finite parameter does), or low above high.
    """
    if alpha.kind == "learnable" and not 0 < alpha.value < 1:
        raise UserError(f"alpha.value: expected above 0 and below 1 for a learnable alpha, got {alpha.value}; use fixed, or 0.01")
    if alpha.low > alpha.high:
        raise UserError(f"alpha.low: expected at most alpha.high = {alpha.high}, got {alpha.low}; swap them, or use reversed")
    if unit not in kinds.units:
        raise UserError(f"unit: expected one of {', '.join(kinds.units)}, got {unit}")
    index = lambda names, name: jnp.asarray(names.index(name), jnp.int32)
    value, low, high, over = (jnp.asarray(x, jnp.float32) for x in (alpha.value, alpha.low, alpha.high, progress))
    return Gating(index(kinds.units, unit), index(kinds.modes, alpha.kind), value, low, high, over)


def activate(
    units: tuple[Unit, ...], unit: Array, a: Float[Array, "*b h"], b: Float[Array, "*b h"], beta: Array
) -> tuple[Float[Array, "*b h"], Float[Array, "*b h"]]:
    """(value, gate) of the unit with that index; no switch where there is nothing to choose."""
    if len(units) == 1:
        return _BRANCHES[units[0]](a, b, beta)
    return jax.lax.switch(unit, [_BRANCHES[u] for u in units], a, b, beta)


def mix(value: Float[Array, "*b h"], gate: Float[Array, "*b h"], alpha: Float[Array, "..."]) -> Float[Array, "*b h"]:
    """value * (alpha * gate + 1 - alpha)."""
    alpha = alpha.astype(value.dtype)
    return value * (alpha * gate + (1 - alpha))


def normalized_entropy(x: Float[Array, "*b d"], temperature: float) -> Float[Array, "*b 1"]:
    """H(softmax(x / temperature)) / log d, in [0, 1]: 1 where all features are equal."""
    log_p = jax.nn.log_softmax(wide(x) / temperature)
    return -jnp.sum(jnp.exp(log_p) * log_p, -1, keepdims=True) / math.log(x.shape[-1])


def scheduled(mode: Mode, low: Array, high: Array, progress: Array) -> Array:
    """Alpha of a schedule after a share `progress` of the training; a pure function, so that resuming needs no state."""
    t = jnp.clip(progress, 0.0, 1.0)
    if mode == "linear":
        return low + (high - low) * t
    falling = 0.5 * (1 + jnp.cos(jnp.pi * t))
    return low + (high - low) * (falling if mode == "cosine" else 1 - falling)


def alpha_of(kinds: GatingKinds, data: Gating, x: Float[Array, "*b d"], shift: Array | None) -> Float[Array, "..."]:
    """Alpha in float32, a shape that broadcasts against [*b, h]; shift: learned distance of its logit from the start."""

    def one(mode: Mode) -> Array:
        if mode == "fixed":
            return data.value
        if mode == "learnable":
            assert shift is not None
            # a logit of 0 or 1 in a run that is not learnable would make infinities that gradients turn to NaN
            start = jnp.clip(data.value, 1e-6, 1 - 1e-6)
            return jax.nn.sigmoid(jnp.log(start) - jnp.log1p(-start) + shift.astype(jnp.float32))
        if mode == "entropy":
            return data.low + (data.high - data.low) * normalized_entropy(x, kinds.temperature)
        return scheduled(mode, data.low, data.high, data.progress)

    found = [one(mode) for mode in kinds.modes]
    if len(found) == 1:
        return found[0]
    shape = jnp.broadcast_shapes(*(f.shape for f in found))
    return jax.lax.select_n(data.mode, *(jnp.broadcast_to(f, shape) for f in found))


class GateNorm(nnx.Module):
    """LayerNorm over the features of the activated gate, epsilon 1e-5, learned scale and bias."""

    def __init__(self, hidden: int, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(hidden, epsilon=1e-5, use_fast_variance=False, rngs=rngs)

    def __call__(self, gate: Float[Array, "*b h"]) -> Float[Array, "*b h"]:
        return self.norm(gate)


class GatedUnit(nnx.Module):
    """x [*b, width] -> y [*b, hidden]; taps NAME.gate (after GateNorm) and NAME.alpha."""

    def __init__(
        self, width: int, hidden: int, rngs: nnx.Rngs, *, kinds: GatingKinds, bias: bool = True, std: float | None = None
    ):
        init = nnx.initializers.lecun_normal() if std is None else nnx.initializers.normal(std)
        linear = lambda: Linear(width, hidden, use_bias=bias, rngs=rngs, kernel_init=init)
        self.kinds = kinds
        self.value, self.gate = linear(), linear()
        self.norm = GateNorm(hidden, rngs) if kinds.gate_norm else None
        self.beta = nnx.Param(jnp.ones(())) if "paSwishU" in kinds.units else None
        shape = (hidden,) if kinds.per == "channel" else ()
        self.shift = nnx.Param(jnp.zeros(shape)) if "learnable" in kinds.modes else None

    def alpha(self, data: Gating, x: Float[Array, "*b d"]) -> Float[Array, "..."]:
        return alpha_of(self.kinds, data, x, None if self.shift is None else self.shift[...])

    def __call__(
        self, x: Float[Array, "*b d"], data: Gating, *, taps: Taps = NONE, name: str = "unit"
    ) -> Float[Array, "*b h"]:
        beta = jnp.ones(()) if self.beta is None else self.beta[...]
        value, gate = side_by_side((self.value, self.gate), x)
        value, gate = activate(self.kinds.units, data.unit, value, gate, beta)
        gate = taps(f"{name}.gate", gate if self.norm is None else self.norm(gate))
        return mix(value, gate, taps(f"{name}.alpha", self.alpha(data, x)))
