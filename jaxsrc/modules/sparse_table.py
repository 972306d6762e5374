"""A table of embeddings outside the optimiser: only rows in the batch get a gradient and an update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

PyTree = Any


def sign_sgd_rows(
    table: Float[Array, "n d"], ids: Int[Array, "b"], gradients: Float[Array, "b d"], rate: float | Array, decay: float
) -> Float[Array, "n d"]:
    """Rows in the batch: p (1 - rate decay) - rate sign(sum of their gradients); the others keep every bit.

    Duplicates are summed first, then the sign is taken (TRM's CastedSparseEmbeddingSignSGD). Work of the batch's size:
    each batch row gets the sum over its equals, so equal rows write equal values.
    """
    same = (ids[:, None] == ids[None]).astype(gradients.dtype)
    summed = jnp.matmul(same, gradients, precision="highest")
    rows = table[ids] * (1 - rate * decay) - rate * jnp.sign(summed)
    return table.at[ids].set(rows.astype(table.dtype))


def loss_and_row_gradients(
    function: Callable[[PyTree, Array], tuple[Array, PyTree]], params: PyTree, rows: Float[Array, "b d"]
) -> tuple[Array, PyTree, Float[Array, "b d"]]:
    """(loss, aux, d loss / d rows) of `function(params, rows) -> (loss, aux)`, differentiable in `params` at no more cost.

    One backward pass serves both: the gradient in the parameters is kept for the transform outside, which scales it.
    """

    @jax.custom_vjp
    def whole(params: PyTree, rows: Array) -> tuple[Array, PyTree, Array]:
        loss, aux = function(params, rows)
        return loss, aux, jnp.zeros_like(rows)

    def forward(params: PyTree, rows: Array) -> tuple[tuple[Array, PyTree, Array], PyTree]:
        (loss, aux), (inner, outer) = jax.value_and_grad(function, (0, 1), has_aux=True)(params, rows)
        return (loss, aux, outer), (inner, outer)

    def backward(kept: PyTree, cotangent: tuple[Array, PyTree, Array]) -> tuple[PyTree, Array]:
        return jax.tree.map(lambda g: g * cotangent[0].astype(g.dtype), kept)  # the loss alone is differentiated

    whole.defvjp(forward, backward)
    return whole(params, rows)
