"""paGRU: a gated recurrent unit whose gates and candidate are interpolated towards nothing at all, so that alpha has a gradient.

gate_a(u) = a * sigmoid(u) + 1 - a,   candidate_a(u) = a * tanh(u) + (1 - a) * u
r = gate_a(W_r x + U_r h),  z = gate_a(W_z x + U_z h),  n = candidate_a(W_n x + U_n (r * h)),  h' = (1 - z) * h + z * n

a = 1 is the GRU of Cho et al. 2014; a = 0 has r = z = 1 and is the linear recurrence h' = W_n x + U_n h. The original multiplies
the arguments by alpha instead, and reads alpha off the graph, so that it is never trained.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxsrc.modules.gated_units import Gating, GatingKinds, alpha_of
from jaxsrc.modules.linear import Linear
from jaxsrc.modules.taps import NONE, Taps


def open_gate(u: Float[Array, "*b h"], alpha: Float[Array, "..."]) -> Float[Array, "*b h"]:
    return alpha * jax.nn.sigmoid(u) + (1 - alpha)


def candidate(u: Float[Array, "*b h"], alpha: Float[Array, "..."]) -> Float[Array, "*b h"]:
    return alpha * jnp.tanh(u) + (1 - alpha) * u


class GatedRecurrence(nnx.Module):
    """The cell over a sequence: x [b, n, width] -> all states [b, n, hidden]; full recurrent matrices."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs, *, kinds: GatingKinds):
        self.kinds, self.hidden = kinds, hidden
        small = nnx.initializers.orthogonal(0.5)  # half, so that alpha = 0, a linear recurrence, does not grow
        self.x = Linear(width, 3 * hidden, rngs=rngs)
        self.gates = Linear(hidden, 2 * hidden, use_bias=False, rngs=rngs, kernel_init=small)
        self.state = Linear(hidden, hidden, use_bias=False, rngs=rngs, kernel_init=small)
        self.shift = nnx.Param(jnp.zeros(())) if "learnable" in kinds.modes else None

    def step(self, x: Float[Array, "b k"], h: Float[Array, "b h"], alpha: Float[Array, "..."]) -> Float[Array, "b h"]:
        """One step from state h; x: the input's three parts, already mapped."""
        r_x, z_x, n_x = jnp.split(x, 3, -1)
        r_h, z_h = jnp.split(self.gates(h), 2, -1)
        r, z = open_gate(r_x + r_h, alpha), open_gate(z_x + z_h, alpha)
        return (1 - z) * h + z * candidate(n_x + self.state(r * h), alpha)

    def __call__(self, x: Float[Array, "b n d"], data: Gating) -> Float[Array, "b n h"]:
        alpha = alpha_of(self.kinds, data, x, None if self.shift is None else self.shift[...]).astype(x.dtype)
        alpha = jnp.broadcast_to(alpha, (*x.shape[:2], 1))
        graph, params = nnx.split(self)

        def step(h: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
            h = nnx.merge(graph, params).step(at[0], h, at[1])
            return h, h

        parts = (self.x(x).swapaxes(0, 1), alpha.swapaxes(0, 1))
        _, states = jax.lax.scan(step, jnp.zeros((len(x), self.hidden), x.dtype), parts)
        return states.swapaxes(0, 1)


class PointwiseGRU(nnx.Module):
    """paGRU where there is no time axis: one step of the cell from the state A x, its recurrent maps diagonal.

    x [*b, width] -> y [*b, hidden]; alpha = 0 is linear in x. Taps NAME.gate (z) and NAME.alpha.
    """

    def __init__(
        self, width: int, hidden: int, rngs: nnx.Rngs, *, kinds: GatingKinds, bias: bool = True, std: float | None = None
    ):
        init = nnx.initializers.lecun_normal() if std is None else nnx.initializers.normal(std)
        linear = lambda: Linear(width, hidden, use_bias=bias, rngs=rngs, kernel_init=init)
        self.kinds = kinds
        self.value, self.reset, self.update, self.candidate = linear(), linear(), linear(), linear()
        self.recurrent = nnx.Param(jnp.full((3, hidden), 0.5))
        self.shift = nnx.Param(jnp.zeros(())) if "learnable" in kinds.modes else None

    def alpha(self, data: Gating, x: Float[Array, "*b d"]) -> Float[Array, "..."]:
        return alpha_of(self.kinds, data, x, None if self.shift is None else self.shift[...])

    def __call__(
        self, x: Float[Array, "*b d"], data: Gating, *, taps: Taps = NONE, name: str = "unit"
    ) -> Float[Array, "*b h"]:
        alpha = taps(f"{name}.alpha", self.alpha(data, x)).astype(x.dtype)
        u = self.recurrent[...].astype(x.dtype)
        h = self.value(x)
        r = open_gate(self.reset(x) + u[0] * h, alpha)
        z = taps(f"{name}.gate", open_gate(self.update(x) + u[1] * h, alpha))
        return (1 - z) * h + z * candidate(self.candidate(x) + u[2] * (r * h), alpha)
