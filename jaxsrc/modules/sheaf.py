"""A cellular sheaf on a grid: restriction maps, coboundary, Laplacian, diffusion, without gather or scatter.

Vertices are the cells of a grid (masked, on a padded canvas), edges join 4-neighbours. The stalk of a cell is R^d (with
c channels), of an edge R^e. An edge from a cell to the next one along an axis carries two restriction maps, `near` from
the cell itself and `far` from the next cell: (delta x)_edge = far x_next - near x_cell, L = delta^T delta. An edge
field has the shape of a cell field; the edge of a cell to a neighbour that does not exist is zero. Sources: Hansen &
Ghrist 2019, Bodnar et al. 2022.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsrc.modules.norm import wide

MapKind = Literal["diagonal", "orthogonal", "general"]
Field = Float[Array, "*b h w d c"]
AXES = (-2, -1)  # of a mask [*b, h, w]: edges to the cell below, edges to the cell on the right


def shift(x: Array, axis: int, step: int) -> Array:
    """x one cell ahead (step 1) or behind (step -1) along an axis, zero beyond the border."""
    axis = axis % x.ndim
    size = x.shape[axis]
    blank = jnp.zeros_like(jax.lax.slice_in_dim(x, 0, 1, axis=axis))
    kept = jax.lax.slice_in_dim(x, max(step, 0), size + min(step, 0), axis=axis)
    return jnp.concatenate([kept, blank] if step > 0 else [blank, kept], axis)


class EdgeMaps(NamedTuple):
    """Restriction maps of all edges along one axis; `valid` [*b, h, w] is 1 where both ends are cells.

    near, far: diagonal [*b, h, w, d]; orthogonal [*b, h, w, r, d], the product of the r reflections along these
    vectors; general [*b, h, w, e, d].
    """

    near: Array
    far: Array
    valid: Float[Array, "*b h w"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GridSheaf:
    """Maps of the edges downwards and to the right; a pytree whose `kind` is static."""

    down: EdgeMaps
    right: EdgeMaps
    kind: MapKind = field(metadata={"static": True})


def reflect(vectors: Float[Array, "*b r d"], x: Float[Array, "*b d c"]) -> Float[Array, "*b d c"]:
    """Apply H_r ... H_1 with H_i = I - 2 v v^T / |v|^2 (Householder 1958): orthogonal for all vectors.

    A vector shorter than 1e-6 stands for the identity.
    """
    for i in range(vectors.shape[-2]):
        v = wide(vectors[..., i, :])
        square = jnp.sum(v * v, -1, keepdims=True)
        long = square > 1e-12  # a shorter vector has no direction in float32, and its gradient would overflow
        unit = jnp.where(long, v * jax.lax.rsqrt(jnp.where(long, square, 1)), 0).astype(x.dtype)
        x = x - 2 * unit[..., None] * jnp.sum(unit[..., None] * x, -2, keepdims=True)
    return x


def restrict(kind: MapKind, maps: Array, x: Array) -> Array:
    """Stalks of cells to stalks of edges."""
    if kind == "diagonal":
        return maps[..., None] * x
    return reflect(maps, x) if kind == "orthogonal" else jnp.einsum("...ed,...dc->...ec", maps, x)


def corestrict(kind: MapKind, maps: Array, y: Array) -> Array:
    """The transposed maps: stalks of edges to stalks of cells."""
    if kind == "diagonal":
        return maps[..., None] * y
    return reflect(maps[..., ::-1, :], y) if kind == "orthogonal" else jnp.einsum("...ed,...ec->...dc", maps, y)


def _edges(sheaf: GridSheaf) -> tuple[tuple[EdgeMaps, int], tuple[EdgeMaps, int]]:
    return (sheaf.down, AXES[0] - 2), (sheaf.right, AXES[1] - 2)


def coboundary(sheaf: GridSheaf, x: Field) -> tuple[Array, Array]:
    """(delta x) on the edges downwards and to the right: [*b, h, w, e, c] each."""
    out = []
    for maps, axis in _edges(sheaf):
        difference = restrict(sheaf.kind, maps.far, shift(x, axis, 1)) - restrict(sheaf.kind, maps.near, x)
        out.append(difference * maps.valid[..., None, None])
    return out[0], out[1]


def coboundary_transpose(sheaf: GridSheaf, y: tuple[Array, Array]) -> Field:
    """delta^T: edge fields to a cell field."""
    parts = []
    for (maps, axis), edge in zip(_edges(sheaf), y, strict=True):
        edge = edge * maps.valid[..., None, None]
        ahead = shift(corestrict(sheaf.kind, maps.far, edge), axis, -1)
        parts.append(ahead - corestrict(sheaf.kind, maps.near, edge))
    return parts[0] + parts[1]


def laplacian(sheaf: GridSheaf, x: Field) -> Field:
    """L x = delta^T delta x, matrix-free; symmetric, positive semidefinite, zero exactly on the global sections."""
    return coboundary_transpose(sheaf, coboundary(sheaf, x))


def sum_squares(*parts: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Sum of the squares of all parts over the axes, in float32: 900 cells are too many for half precision."""
    return reduce(add, (jnp.sum(wide(part) ** 2, axes) for part in parts))


def edge_count(sheaf: GridSheaf) -> Float[Array, "*b"]:
    return reduce(add, (wide(maps.valid).sum((-2, -1)) for maps, _ in _edges(sheaf)))


def dirichlet_energy(sheaf: GridSheaf, x: Field) -> Float[Array, "*b"]:
    """x^T L x / (edges c): how far the stalks are from gluing together, zero exactly on the global sections."""
    total = sum_squares(*coboundary(sheaf, x), axes=(-4, -3, -2, -1))
    return total / jnp.maximum(edge_count(sheaf) * x.shape[-1], 1)


def degree(sheaf: GridSheaf) -> Array:
    """Diagonal blocks of L: [*b, h, w, d] for diagonal maps, [*b, h, w, 1] orthogonal, [*b, h, w, d, d] general."""
    parts = []
    for maps, axis in _edges(sheaf):
        valid = wide(maps.valid)[..., None]
        if sheaf.kind == "diagonal":
            parts += [wide(maps.near) ** 2 * valid, shift(wide(maps.far) ** 2 * valid, axis + 1, -1)]
        elif sheaf.kind == "orthogonal":
            parts += [valid, shift(valid, axis + 1, -1)]
        else:
            squares = (jnp.einsum("...ed,...ef->...df", wide(m), wide(m)) for m in (maps.near, maps.far))
            near, far = (square * valid[..., None] for square in squares)
            parts += [near, shift(far, axis, -1)]
    return reduce(add, parts)


def inverse_square_root(a: Float[Array, "*b d d"], iterations: int = 16) -> Float[Array, "*b d d"]:
    """a^-1/2 of symmetric positive definite blocks by the coupled Newton-Schulz iteration (Higham 2008, 6.7).

    No eigenvectors: only products of small matrices, and a gradient without the 1 / (difference of eigenvalues) of
    eigh. It converges from below, so D^-1/2 L D^-1/2 stays within [0, 2] however early it stops; an eigenvalue grows by
    at most 2.25 an iteration until it is near its limit, so 16 iterations serve condition numbers up to about 1e4, 30
    up to 1e9 (float64).
    """
    eye = jnp.eye(a.shape[-1], dtype=a.dtype)
    size = jnp.sqrt(jnp.sum(a * a, (-2, -1), keepdims=True))
    y, z = a / size, jnp.broadcast_to(eye, a.shape)
    for _ in range(iterations):
        t = (3 * eye - z @ y) / 2
        y, z = y @ t, t @ z
    return z * jax.lax.rsqrt(size)


def _scaling(sheaf: GridSheaf, floor: float = 1e-3) -> Callable[[Array], Array]:
    """x -> D^-1/2 x, with the degree bounded below by `floor` (a cell without edges has degree zero)."""
    blocks = degree(sheaf)
    if sheaf.kind == "general":
        root = inverse_square_root(blocks + floor * jnp.eye(blocks.shape[-1], dtype=blocks.dtype))
        return lambda x: jnp.einsum("...df,...fc->...dc", root.astype(x.dtype), x)
    root = jax.lax.rsqrt(blocks + floor)
    return lambda x: root[..., None].astype(x.dtype) * x


def normalized_laplacian(sheaf: GridSheaf, x: Field) -> tuple[Field, Float[Array, ""]]:
    """D^-1/2 L D^-1/2 x, whose spectrum lies in [0, 2], and the mean Dirichlet energy of D^-1/2 x."""
    scale = _scaling(sheaf)
    scaled = scale(x)
    edges = coboundary(sheaf, scaled)
    energy = sum_squares(*edges) / jnp.maximum(edge_count(sheaf).sum() * x.shape[-1], 1)
    return scale(coboundary_transpose(sheaf, edges)), energy


def diffusion_step(
    sheaf: GridSheaf,
    x: Field,
    stalk_weight: Float[Array, "d d"],
    channel_weight: Float[Array, "c c"],
    activation: Callable[[Array], Array] = jax.nn.gelu,
) -> Field:
    """x - act(D^-1/2 L D^-1/2 (I (x) W1) x W2), one layer of neural sheaf diffusion (Bodnar et al. 2022).

    W1 = stalk_weight acts on every stalk alike, W2 = channel_weight on the channels; both the identity and no
    activation make it one explicit step of heat flow.
    """
    mixed = jnp.einsum("df,...fc,ce->...de", stalk_weight, x, channel_weight)
    return x - activation(normalized_laplacian(sheaf, mixed)[0])


def edge_masks(mask: Float[Array, "*b h w"]) -> tuple[Array, Array]:
    """1 where a cell and the next one (below, on the right) are both cells."""
    return mask * shift(mask, AXES[0], 1), mask * shift(mask, AXES[1], 1)


def map_parameters(kind: MapKind, stalk: int, reflections: int = 2) -> int:
    """Numbers that one restriction map takes."""
    return {"diagonal": stalk, "orthogonal": reflections * stalk, "general": stalk * stalk}[kind]


def content_maps(
    y: Float[Array, "*b h w i"],
    mask: Float[Array, "*b h w"],
    kernel: Float[Array, "i2 o"],
    bias: Float[Array, "o"],
    *,
    kind: MapKind,
    stalk: int,
) -> GridSheaf:
    """Restriction maps as an affine function of the two cells' content and of the edge's axis.

    kernel: [2 i, 2 map_parameters], its first half of rows reads the cell the map starts from, the second the other
    cell; its first half of columns serves the downward edges, the second those to the right. Diagonal and general maps
    are the identity plus that function.
    """
    i = y.shape[-1]
    own, other = y @ kernel[:i] + bias, y @ kernel[i:]
    size = own.shape[-1] // 2
    maps = []
    for index, (axis, valid) in enumerate(zip(AXES, edge_masks(mask), strict=True)):
        a, b = (t[..., index * size : (index + 1) * size] for t in (own, other))
        near, far = a + shift(b, axis - 1, 1), shift(a, axis - 1, 1) + b
        maps.append(EdgeMaps(_shape(near, kind, stalk), _shape(far, kind, stalk), valid))
    return GridSheaf(maps[0], maps[1], kind)


def _shape(raw: Array, kind: MapKind, stalk: int) -> Array:
    if kind == "diagonal":
        return 1 + raw
    blocks = raw.reshape(*raw.shape[:-1], -1, stalk)
    if kind == "general":
        return blocks + jnp.eye(stalk, dtype=raw.dtype)
    first = (jnp.arange(stalk) == 0).astype(raw.dtype)
    return blocks + first  # reflections start along one axis: two of them are the identity
