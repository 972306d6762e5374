"""Matrices [out, in] as they are, as int8 with a scale a row, or as int4 in groups, two numbers to a byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxsrc.errors import UserError

Leaf = Any
Storage = Literal["float32", "bfloat16", "int8", "int4"]
GROUP = 64  # inputs that share a scale in int4


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int8:
    """values: int8[o, i]; scale: float32[o]; the matrix is values * scale."""

    values: Leaf
    scale: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Int4:
    """values: uint8[o, i / 2], input 2j in the low four bits and 2j + 1 in the high ones, each plus 8; scale: float32[o, i / 64].

    Packed by hand because an array of `jnp.int4` takes a byte a number on a CPU.
    """

    values: Leaf
    scale: Leaf


Matrix = Array | Int8 | Int4


def int8(weight: Float[Array, "o i"]) -> Int8:
    """Nearest multiple of max|row| / 127."""
    wide = weight.astype(jnp.float32)
    scale = jnp.maximum(jnp.abs(wide).max(1), jnp.finfo(jnp.float32).tiny) / 127
    return Int8(jnp.round(wide / scale[:, None]).astype(jnp.int8), scale)


def int4(weight: Float[Array, "o i"]) -> Int4:
    """Nearest multiple of max|group| / 7 in groups of 64 inputs; UserError where they do not divide the inputs."""
    o, i = weight.shape
    if i % GROUP:
        raise UserError(f"expected inputs that {GROUP} divides for int4, got a matrix of {o} x {i}; store it as int8")
    groups = weight.astype(jnp.float32).reshape(o, i // GROUP, GROUP)
    scale = jnp.maximum(jnp.abs(groups).max(-1), jnp.finfo(jnp.float32).tiny) / 7
    whole = (jnp.round(groups / scale[..., None]) + 8).astype(jnp.uint8).reshape(o, i // 2, 2)
    return Int4(whole[..., 0] | (whole[..., 1] << 4), scale)


def store(weight: Float[Array, "o i"], storage: Storage) -> Matrix:
    """The matrix in a storage."""
    if storage == "int8":
        return int8(weight)
    return int4(weight) if storage == "int4" else weight.astype(storage)


def dense(matrix: Matrix, dtype: Any) -> Float[Array, "o i"]:
    """The matrix in full, in a floating type."""
    if isinstance(matrix, Int8):
        return (matrix.values.astype(jnp.float32) * matrix.scale[:, None]).astype(dtype)
    if isinstance(matrix, Int4):
        o, half = matrix.values.shape
        both = jnp.stack([matrix.values & 15, matrix.values >> 4], -1).astype(jnp.float32) - 8
        return (both.reshape(o, -1, GROUP) * matrix.scale[..., None]).reshape(o, 2 * half).astype(dtype)
    return matrix.astype(dtype)


def product(x: Float[Array, "*b i"], matrix: Matrix) -> Float[Array, "*b o"]:
    """x matrix^T, contracting both last axes so that no transpose of the weights is ever made."""
    rows = x.reshape(-1, x.shape[-1])
    if isinstance(matrix, Int8):
        y = jax.lax.dot_general(rows, matrix.values.astype(x.dtype), (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        y = (y * matrix.scale).astype(x.dtype)
    else:
        y = jax.lax.dot_general(rows, dense(matrix, x.dtype), (((1,), (1,)), ((), ())))
    return y.reshape(*x.shape[:-1], -1)
