"""Extension of values along an embedding of known cells among all cells, in closed form.

K embeds the known cells into all cells, F gives their values. In the category of inner-product spaces the best extension
is the least-squares one, f(y) = k(y, K) (k(K, K) + ridge I)^-1 F: the extension of least norm in the space that the kernel
spans, reached exactly on the known cells as ridge -> 0. Its primal form is ridge regression on features. The enriched
(metric) extensions are in `metric_extension`; `smooth` below is a weighted mean, which neither restricts nor composes.

Values that belong to several cells with one key are given by their count and sum, as if each cell stood for itself.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsrc.modules.linear_solve import solve_spd


def rbf(x: Float[Array, "n d"], y: Float[Array, "m d"], width: float | Float[Array, ""]) -> Float[Array, "n m"]:
    """exp(-|x - y|^2 / (2 width^2))."""
    square = (x**2).sum(-1)[:, None] + (y**2).sum(-1)[None] - 2 * x @ y.T
    return jnp.exp(-jnp.maximum(square, 0) / (2 * width**2))


def fit_primal(
    features: Float[Array, "n d"],
    values: Float[Array, "n v"],
    weight: Float[Array, "n"],
    ridge: float | Float[Array, ""],
) -> Float[Array, "d v"]:
    """W = (X^T D X + ridge I)^-1 X^T D F with D = diag(weight): the extension is y -> features(y) W.

    Weight zero masks a cell. 2 n d (d + v) + d^3 / 3 operations.
    """
    weighted = features * weight[:, None]
    gram = weighted.T @ features + ridge * jnp.eye(features.shape[-1], dtype=features.dtype)
    return solve_spd(gram, weighted.T @ values)


def fit_dual(
    kernel: Float[Array, "n n"],
    count: Float[Array, "n"],
    total: Float[Array, "n v"],
    ridge: float | Float[Array, ""],
) -> Float[Array, "n v"]:
    """Coefficients a of the extension y -> k(y, K) a, for keys seen `count` times with values that add up to `total`.

    With s = sqrt(count): a = s (S K S + ridge I)^-1 (total / s), which is (K + ridge I)^-1 F on the repeated cells. Count
    zero masks a key.
    """
    s = jnp.sqrt(count)
    system = kernel * s[:, None] * s[None] + ridge * jnp.eye(len(s), dtype=kernel.dtype)
    inverse = jnp.where(count > 0, 1 / jnp.where(count > 0, s, 1.0), 0.0)
    return s[:, None] * solve_spd(system, inverse[:, None] * total)


def extend(
    features: Float[Array, "n d"],
    values: Float[Array, "n v"],
    weight: Float[Array, "n"],
    queries: Float[Array, "m d"],
    ridge: float | Float[Array, ""],
) -> Float[Array, "m v"]:
    """Values at the queries under the linear kernel, primal or dual, whichever system is smaller."""
    n, d = features.shape
    if d <= n:
        return queries @ fit_primal(features, values, weight, ridge)
    coefficients = fit_dual(features @ features.T, weight, weight[:, None] * values, ridge)
    return queries @ (features.T @ coefficients)


def leave_one_out_primal(
    features: Float[Array, "p n d"],
    values: Float[Array, "p n v"],
    weight: Float[Array, "p n"],
    ridge: float | Float[Array, ""],
) -> Float[Array, "p n v"]:
    """Values of each of p groups, extended from the other groups: one Gram matrix a group, down-dated from their sum."""
    weighted = features * weight[..., None]
    gram = jnp.einsum("pnd,pne->pde", weighted, features)
    right = jnp.einsum("pnd,pnv->pdv", weighted, values)
    eye = ridge * jnp.eye(features.shape[-1], dtype=features.dtype)
    fits = jax.vmap(lambda g, r: solve_spd(gram.sum(0) - g + eye, right.sum(0) - r))(gram, right)
    return jnp.einsum("pnd,pdv->pnv", features, fits)


def leave_one_out_dual(
    kernel: Float[Array, "n n"],
    count: Float[Array, "p n"],
    total: Float[Array, "p n v"],
    ridge: float | Float[Array, ""],
) -> Float[Array, "p n v"]:
    """Values at all n keys extended without each of p groups in turn; count and total are per group."""

    def without(c: Array, t: Array) -> Array:
        return kernel @ fit_dual(kernel, count.sum(0) - c, total.sum(0) - t, ridge)

    return jax.vmap(without)(count, total)


def leave_block_out(
    kernel: Float[Array, "n n"], values: Float[Array, "n v"], block: Float[Array, "n"], ridge: float | Float[Array, ""]
) -> Float[Array, "n v"]:
    """Left-out values of one block of cells from a single fit: y_B - (I - H_BB)^-1 (y_B - f_B), H = K (K + ridge I)^-1.

    block: 1 in the block, 0 elsewhere; rows outside the block are returned as zero.
    """
    n = len(kernel)
    eye = jnp.eye(n, dtype=kernel.dtype)
    inverse = solve_spd(kernel + ridge * eye, eye)  # I - H = ridge (K + ridge I)^-1
    rest = ridge * inverse
    inside = rest * block[:, None] * block[None] + jnp.diag(1 - block)
    residual = block[:, None] * (rest @ values)
    return block[:, None] * (values - solve_spd(inside, residual))


def smooth(
    affinity: Float[Array, "m n"], values: Float[Array, "n v"], mask: Float[Array, "n"]
) -> Float[Array, "m v"]:
    """softmax(affinity) values over the cells in the mask: a convex combination (Nadaraya-Watson), not an extension."""
    return jax.nn.softmax(jnp.where(mask[None] > 0, affinity, -jnp.inf), -1) @ values
