"""Edges that carry far: stars over rows, columns and the whole grid, and flat edges between cells of one colour."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxsrc.modules.sheaf import AXES, edge_masks, shift


class FlatEdges(NamedTuple):
    """1 on the edges downwards and to the right whose two cells have one colour."""

    down: Float[Array, "*b h w"]
    right: Float[Array, "*b h w"]


def flat_edges(colors: Int[Array, "*b h w"], mask: Float[Array, "*b h w"]) -> FlatEdges:
    down, right = edge_masks(mask)
    same = lambda axis: (colors == shift(colors, axis, 1)).astype(mask.dtype)
    return FlatEdges(down * same(AXES[0]), right * same(AXES[1]))


def flat_diffusion(y: Float[Array, "*b h w d"], flat: FlatEdges, steps: int) -> Float[Array, "*b h w d"]:
    """Heat flow along the flat edges: each step averages a cell with its neighbours of the same colour.

    With many steps every cell carries a mean over its same-colour component (weighted by 1 + degree, the flow's invariant).
    """
    for _ in range(steps):
        total, degree = y, jnp.ones((*y.shape[:-1], 1), y.dtype)
        for edge, axis in zip(flat, AXES, strict=True):
            e = edge[..., None]
            total = total + e * shift(y, axis - 1, 1) + shift(e * y, axis - 1, -1)
            degree = degree + e + shift(e, axis - 1, -1)
        y = total / degree
    return y


def means(y: Float[Array, "*b h w d"], mask: Float[Array, "*b h w"], flat: FlatEdges) -> tuple[Array, ...]:
    """Means over each cell's row, column, grid and (near) component; y is zero outside the mask. [*b, h, w, d] each."""
    over = lambda axes: y.sum(axes, keepdims=True) / jnp.maximum(mask[..., None].sum(axes, keepdims=True), 1)
    wide = [jnp.broadcast_to(over(axes), y.shape) for axes in ((-2,), (-3,), (-3, -2))]
    return (*wide, flat_diffusion(y, flat, 2))
