"""AdamATan2 as TRM uses it: no epsilon, the first bias correction outside the arc tangent."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxsrc.protocol import PyTree


class AtanState(NamedTuple):
    """count: updates made, int32[]; mean, square: moving averages of the gradient and of its square."""

    count: jax.Array
    mean: PyTree
    square: PyTree


def scale_by_adam_atan2(b1: float, b2: float) -> optax.GradientTransformation:
    """atan2(m, sqrt(v) / sqrt(1 - b2^t)) / (1 - b1^t), with no factor in front.

    Source: imoneoi/adam-atan2 (csrc/adam_atan2.cu) after Everett et al. 2024, arXiv:2407.05872, which corrects m inside.
    """

    def init(params: PyTree) -> AtanState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        return AtanState(jnp.int32(0), zeros(), zeros())

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[PyTree, AtanState]:
        count = jnp.asarray(optax.safe_increment(state.count))
        mean = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mean, updates)
        square = jax.tree.map(lambda v, g: v + (1 - b2) * (g * g - v), state.square, updates)
        t = count.astype(jnp.float32)
        first, root = 1 - b1**t, jnp.sqrt(1 - b2**t)
        new = jax.tree.map(lambda m, v: jnp.arctan2(m, jnp.sqrt(v) / root) / first, mean, square)
        return new, AtanState(count, mean, square)

    return optax.GradientTransformation(init, update)


def adam_atan2(schedule: optax.ScalarOrSchedule, b1: float, b2: float, weight_decay: float) -> optax.GradientTransformation:
    """p <- p (1 - lr decay) - lr atan2(...): decoupled decay, as in AdamW."""
    return optax.chain(
        scale_by_adam_atan2(b1, b2), optax.add_decayed_weights(weight_decay), optax.scale_by_learning_rate(schedule)
    )
