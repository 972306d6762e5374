"""The training state: plain arrays in one registered struct, and the table of its parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxsrc.protocol import Experiment, Leaf, PyTree

INITIAL_SCALE = 2.0**15
MINIMUM_SCALE = 1.0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class LossScale:
    """Dynamic loss scaling of float16: halved on overflow, doubled after `step.GROWTH` good steps (arXiv:1710.03740).

    scale: float32[]; good: steps since the last change, int32[]; overflows: steps skipped so far, int32[].
    """

    scale: Leaf
    good: Leaf
    overflows: Leaf


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """step: int32[]; params, opt_state, ema (None without), carry: pytrees of arrays; loss_scale: LossScale in float16,
    else None; key: raw key data of the run."""

    step: Leaf
    params: PyTree
    opt_state: PyTree
    ema: PyTree
    carry: PyTree
    loss_scale: PyTree
    key: Leaf

    @property
    def best_params(self) -> PyTree:
        """What evaluation uses: the moving average if there is one."""
        return self.params if self.ema is None else self.ema


def init_state(
    experiment: Experiment, optimizer: optax.GradientTransformation, seed: int | Array, *, ema: bool, scaled: bool
) -> TrainState:
    """A fresh state, traceable: jit it with the shardings wanted, or `jax.eval_shape` it for shapes alone."""
    key = jax.random.key(seed)
    params, carry = experiment.init(jax.random.fold_in(key, 0))
    scale = LossScale(jnp.float32(INITIAL_SCALE), jnp.int32(0), jnp.int32(0)) if scaled else None
    return TrainState(
        step=jnp.int32(0),
        params=params,
        opt_state=optimizer.init(params),
        ema=jax.tree.map(jnp.copy, params) if ema else None,
        carry=carry,
        loss_scale=scale,
        key=jax.random.key_data(key),
    )


def path_name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def leaf_table(tree: PyTree) -> dict[str, str]:
    """path -> 'dtype[shape]' of every leaf; works on arrays and on abstract values."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): f"{x.dtype.name}[{','.join(map(str, x.shape))}]" for path, x in leaves}


def count(tree: PyTree) -> int:
    """Numbers in a pytree."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


def bytes_of(tree: PyTree) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def parameter_table(params: PyTree) -> list[tuple[str, str, int]]:
    """(path, 'dtype[shape]', count) of every parameter."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = leaf_table(params)
    return [(path_name(p), names[path_name(p)], math.prod(x.shape)) for p, x in leaves]
