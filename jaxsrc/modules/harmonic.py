"""Harmonic extension and the projection onto flat sections: the limits of heat flow, without running it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsrc.modules.long_range import FlatEdges
from jaxsrc.modules.norm import wide
from jaxsrc.modules.sheaf import AXES, Field, GridSheaf, laplacian, shift


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(wide(a) * wide(b), (-4, -3, -2, -1), keepdims=True).astype(a.dtype)


def _ratio(a: Array, b: Array) -> Array:
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def harmonic_extension(
    sheaf: GridSheaf, x: Field, pinned: Float[Array, "*b h w"], free: Float[Array, "*b h w"], iterations: int
) -> Field:
    """y with y = x on the pinned cells and (L y) = 0 on the free ones: y_U = -L_UU^-1 L_UB x_B, by conjugate residuals.

    Unique exactly if no nonzero global section vanishes on the pinned cells; otherwise the one of least norm. A fixed
    number of iterations, all in one loop, exact after as many as there are free numbers; a solution that has converged
    is left alone. The gradient solves the same system once more, whatever the number of iterations. Cells that are
    neither pinned nor free are zero.
    """
    keep, live = pinned[..., None, None].astype(x.dtype), free[..., None, None].astype(x.dtype)
    boundary = x * keep

    def apply(u: Array) -> Array:
        return live * laplacian(sheaf, live * u)

    def solve(apply: Callable[[Array], Array], b: Array) -> Array:
        return _conjugate_residuals(apply, b, iterations)

    u = jax.lax.custom_linear_solve(apply, -live * laplacian(sheaf, boundary), solve, symmetric=True)
    return boundary + live * u


def _conjugate_residuals(apply: Callable[[Array], Array], b: Array, iterations: int) -> Array:
    """u with the least |apply(u) - b|, for a symmetric positive semidefinite map (Stiefel 1955).

    Where no cell of a component is pinned the map is singular, and a gradient that comes back need not be in its range:
    conjugate gradients would diverge, conjugate residuals never make the residual longer.
    """
    epsilon = jnp.finfo(b.dtype).eps

    def step(_: Array, state: tuple[Array, ...]) -> tuple[Array, ...]:
        u, r, ar, p, ap, energy, steepest = state
        steepest = jnp.maximum(steepest, _ratio(_dot(ap, ap), _dot(ap, p)))
        go = energy > epsilon**2 * steepest * size
        alpha = jnp.where(go, _ratio(_dot(r, ap), _dot(ap, ap)), 0)
        u, r = u + alpha * p, r - alpha * ap
        ar = apply(r)
        new = _dot(r, ar)
        beta = jnp.where(go, _ratio(new, energy), 0)
        return u, r, ar, r + beta * p, ar + beta * ap, new, steepest

    ab, size = apply(b), _dot(b, b)
    start = (jnp.zeros_like(b), b, ab, b, ab, _dot(b, ab), jnp.zeros_like(size))
    return jax.lax.fori_loop(0, iterations, step, start)[0]


def run_means(y: Float[Array, "*b h w d"], edge: Float[Array, "*b h w"], axis: int) -> Float[Array, "*b h w d"]:
    """Mean over each run of cells joined along one axis of the mask: the projection onto sections flat along it.

    edge: 1 where a cell and the next one along the axis are joined. Two segmented scans, log2(side) deep.
    """
    counted = jnp.concatenate([wide(y), jnp.ones((*y.shape[:-1], 1), wide(y).dtype)], -1)
    joined = wide(edge)[..., None]

    def sums(link: Array, reverse: bool) -> Array:
        def both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
            return a[0] * b[1] + b[0], a[1] * b[1]

        return jax.lax.associative_scan(both, (counted, link), axis=axis % edge.ndim, reverse=reverse)[0]

    total = sums(shift(joined, axis - 1, -1), reverse=False) + sums(joined, reverse=True) - counted
    return (total[..., :-1] / total[..., -1:]).astype(y.dtype)


def component_average(y: Float[Array, "*b h w d"], flat: FlatEdges, sweeps: int) -> Float[Array, "*b h w d"]:
    """Means over the components that flat edges join: what heat flow along them tends to, the projection onto H^0.

    Every sweep averages runs down the columns, then along the rows; two alternating projections tend to the projection
    onto sections flat along both (von Neumann 1933). A convex component takes one or two sweeps, a winding one several.
    """

    def sweep(_: Array, y: Array) -> Array:
        for edge, axis in zip(flat, AXES, strict=True):
            y = run_means(y, edge, axis)
        return y

    return jax.lax.fori_loop(0, sweeps, sweep, y)
