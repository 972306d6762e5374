"""Harmonic extension: free cells filled from pinned ones so that the Dirichlet energy is least."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsrc.modules.sheaf import Field, GridSheaf, laplacian


def harmonic_extension(
    sheaf: GridSheaf, x: Field, pinned: Float[Array, "*b h w"], free: Float[Array, "*b h w"], iterations: int
) -> Field:
    """y with y = x on the pinned cells and (L y) = 0 on the free ones: y_U = -L_UU^-1 L_UB x_B, by conjugate gradients.

    Unique exactly if no nonzero global section vanishes on the pinned cells; otherwise the one of least norm. A fixed
    number of iterations, all in one loop; cells that are neither pinned nor free are zero.
    """
    keep = pinned[..., None, None]
    live = free[..., None, None]
    boundary = x * keep
    apply = lambda u: live * laplacian(sheaf, live * u)
    dot = lambda a, b: jnp.sum(a * b, (-4, -3, -2, -1), keepdims=True)
    residual = -live * laplacian(sheaf, boundary)

    def step(_: Array, state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        u, r, p, rr = state
        ap = apply(p)
        curve = dot(p, ap)
        alpha = jnp.where(curve > 0, rr / jnp.where(curve > 0, curve, 1), 0)
        u, r = u + alpha * p, r - alpha * ap
        new = dot(r, r)
        p = r + jnp.where(rr > 0, new / jnp.where(rr > 0, rr, 1), 0) * p
        return u, r, p, new

    start = (jnp.zeros_like(residual), residual, residual, dot(residual, residual))
    return boundary + jax.lax.fori_loop(0, iterations, step, start)[0]
