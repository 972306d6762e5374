"""Extension of values along an embedding of known cells among all cells, in closed form.

K embeds the known cells into all cells, F gives their values. In the category of inner-product spaces the best
extension is the least-squares one, f(y) = k(y, K) (k(K, K) + ridge I)^-1 F: the extension of least norm in the space
that the kernel spans, reached exactly on the known cells as ridge -> 0. Its primal form is ridge regression on
features. The enriched (metric) extensions are in `metric_extension`; `smooth` below is a weighted mean, which neither
restricts nor composes.

Values that belong to several cells with one key are given by their count and sum, as if each cell stood for itself. The
functions treat one task; `vmap` them over tasks, or over a vector of ridges (what does not depend on the ridge is then
computed once). Inputs of half precision are taken to float32 first, and products are full float32 on every platform: a
Gram matrix of n cells rounded to 10 bits need not be positive definite.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsrc.modules.linear_solve import solve_spd
from jaxsrc.modules.norm import wide

Ridge = float | Float[Array, ""]
_EXACT = jax.lax.Precision.HIGHEST  # a GPU's default for float32 products keeps 10 bits
_product = partial(jnp.matmul, precision=_EXACT)


def _regular(gram: Float[Array, "*b n n"], ridge: Ridge) -> Float[Array, "*b n n"]:
    """gram + ridge I, where a ridge below n roundings of a diagonal entry is raised to them: a float32 factor then exists.

    A row that is zero altogether (a masked key, a feature that never occurs) gets a one, and its solution is zero.
    """
    n = gram.shape[-1]
    eye = jnp.eye(n, dtype=gram.dtype)
    diagonal = jnp.sum(gram * eye, -1)
    floor = jnp.where(diagonal > 0, n * jnp.finfo(gram.dtype).eps * diagonal, jnp.where(ridge > 0, 0, 1))
    return gram + eye * jnp.maximum(jnp.asarray(ridge, gram.dtype), floor)[..., None]


def rbf(x: Float[Array, "n d"], y: Float[Array, "m d"], width: Ridge) -> Float[Array, "n m"]:
    """exp(-|x - y|^2 / (2 width^2))."""
    x, y = wide(x), wide(y)
    square = (x**2).sum(-1)[:, None] + (y**2).sum(-1)[None] - 2 * _product(x, y.T)
    return jnp.exp(-jnp.maximum(square, 0) / (2 * width**2))


def fit_primal(
    features: Float[Array, "n d"], values: Float[Array, "n v"], weight: Float[Array, "n"], ridge: Ridge
) -> Float[Array, "d v"]:
    """W = (X^T D X + ridge I)^-1 X^T D F with D = diag(weight): the extension is y -> features(y) W.

    Weight zero masks a cell. 2 n d (d + v) + d^3 / 3 operations.
    """
    features, values, weight = wide(features), wide(values), wide(weight)
    weighted = (features * weight[:, None]).T
    return solve_spd(_regular(_product(weighted, features), ridge), _product(weighted, values))


def fit_dual(
    kernel: Float[Array, "n n"], count: Float[Array, "n"], total: Float[Array, "n v"], ridge: Ridge
) -> Float[Array, "n v"]:
    """Coefficients a of the extension y -> k(y, K) a, for keys seen `count` times with values that add up to `total`.

    With s = sqrt(count): a = s (S K S + ridge I)^-1 (total / s), which is (K + ridge I)^-1 F on the repeated cells.
    Count zero masks a key.
    """
    kernel, count, total = wide(kernel), wide(count), wide(total)
    s = _root(count)
    return s[:, None] * solve_spd(_regular(kernel * s[:, None] * s[None], ridge), _divide(total, s[:, None]))


def _root(count: Array) -> Array:
    """sqrt(count) with a finite gradient at zero, where it is zero."""
    return jnp.where(count > 0, jnp.sqrt(jnp.where(count > 0, count, 1)), 0)


def _divide(total: Array, s: Array) -> Array:
    return jnp.where(s > 0, total / jnp.where(s > 0, s, 1), 0)


def extend(
    features: Float[Array, "n d"],
    values: Float[Array, "n v"],
    weight: Float[Array, "n"],
    queries: Float[Array, "m d"],
    ridge: Ridge,
) -> Float[Array, "m v"]:
    """Values at the queries under the linear kernel, primal or dual, whichever system is smaller."""
    n, d = features.shape
    features, values, weight, queries = wide(features), wide(values), wide(weight), wide(queries)
    if d <= n:
        return _product(queries, fit_primal(features, values, weight, ridge))
    coefficients = fit_dual(_product(features, features.T), weight, weight[:, None] * values, ridge)
    return _product(queries, _product(features.T, coefficients))


def leave_one_out_primal(
    features: Float[Array, "p n d"], values: Float[Array, "p n v"], weight: Float[Array, "p n"], ridge: Ridge
) -> Float[Array, "p n v"]:
    """Values of each of p groups, extended from the others: one Gram matrix a group, left out of the sum of all."""
    features, values, weight = wide(features), wide(values), wide(weight)
    weighted = features.swapaxes(-1, -2) * weight[:, None]
    gram, right = _product(weighted, features), _product(weighted, values)
    others = _regular(_without(gram), ridge)
    return _product(features, jax.vmap(solve_spd)(others, _without(right)))


def _without(parts: Float[Array, "p *b"]) -> Float[Array, "p *b"]:
    """Sum of all parts but one, for each; adding the others up, not subtracting one, loses nothing in float32."""
    p = len(parts)
    others = 1 - jnp.eye(p, dtype=parts.dtype)
    return _product(others, parts.reshape(p, -1)).reshape(parts.shape)


def leave_one_out_dual(
    kernel: Float[Array, "n n"], count: Float[Array, "p n"], total: Float[Array, "p n v"], ridge: Ridge
) -> Float[Array, "p n v"]:
    """Values at all n keys extended without each of p groups in turn; count and total are per group."""
    kernel, count, total = wide(kernel), wide(count), wide(total)

    def refit(c: Array, t: Array) -> Array:
        return _product(kernel, fit_dual(kernel, c, t, ridge))

    return jax.vmap(refit)(_without(count), _without(total))


def leave_one_out_blocks(
    kernel: Float[Array, "p n p n"], values: Float[Array, "p n v"], weight: Float[Array, "p n"], ridge: Ridge
) -> Float[Array, "p n v"]:
    """Values of each of p groups, extended from the others, by one inverse: f_i = y_i - (B_ii)^-1 (B y)_i.

    B = (S K S + ridge I)^-1 with S = sqrt(weight) on both sides of the kernel and y = S F, which is the block form of
    (I - H_ii)^-1 (y_i - f_i) with I - H = ridge B. Cells of weight zero take no part and get zero.
    """
    kernel, values, weight = wide(kernel), wide(values), wide(weight)
    p, n = weight.shape
    s = _root(weight)
    system = (kernel * s[:, :, None, None] * s).reshape(p * n, p * n)
    inverse = solve_spd(_regular(system, ridge), jnp.eye(p * n, dtype=system.dtype))
    target = s[..., None] * values
    residual = _product(inverse, target.reshape(p * n, -1)).reshape(target.shape)
    own = jnp.sum(inverse.reshape(p, n, p, n) * jnp.eye(p, dtype=inverse.dtype)[:, None, :, None], 2)
    return _divide(target - jax.vmap(solve_spd)(own, residual), s[..., None])


def leave_block_out(
    kernel: Float[Array, "n n"], values: Float[Array, "n v"], block: Float[Array, "n"], ridge: Ridge
) -> Float[Array, "n v"]:
    """Left-out values of one block of cells from a single fit: y_B - (I - H_BB)^-1 (y_B - f_B), H = K (K + ridge I)^-1.

    block: 1 in the block, 0 elsewhere; rows outside the block are returned as zero.
    """
    kernel, values, block = wide(kernel), wide(values), wide(block)
    eye = jnp.eye(len(kernel), dtype=kernel.dtype)
    inverse = solve_spd(_regular(kernel, ridge), eye)  # I - H = ridge (K + ridge I)^-1; the ridge cancels
    inside = inverse * block[:, None] * block[None] + eye * (1 - block)
    residual = block[:, None] * _product(inverse, values)
    return block[:, None] * (values - solve_spd(inside, residual))


def smooth(affinity: Float[Array, "m n"], values: Float[Array, "n v"], mask: Float[Array, "n"]) -> Float[Array, "m v"]:
    """softmax(affinity) values over the cells in the mask: a convex combination (Nadaraya-Watson), not an extension.

    Zero where no cell is known.
    """
    affinity, values, mask = wide(affinity), wide(values), wide(mask)
    known = mask > 0
    weights = jax.nn.softmax(jnp.where(known, affinity, jnp.finfo(affinity.dtype).min), -1)
    return _product(jnp.where(known, weights, 0), values)
