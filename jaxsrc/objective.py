"""(outputs, batch) -> loss and metric sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Metrics = dict[str, tuple[Array, Array]]


def cell_loss(
    scores: Float[Array, "b n c"], colors: Int[Array, "b n"], energy: Float[Array, "b"], gluing: float
) -> tuple[Float[Array, ""], Metrics]:
    """Mean over tasks of the mean cross-entropy of the query's cells, plus `gluing` times the Dirichlet energy.

    scores: logits; colors: -1 where there is no cell. Metrics: loss, exact (all cells of the query right), cells, energy.
    """
    live = (colors >= 0).astype(jnp.float32)
    count = jnp.maximum(live.sum(-1), 1.0)
    picked = jnp.take_along_axis(jax.nn.log_softmax(scores), jnp.maximum(colors, 0)[..., None], -1)[..., 0]
    per_task = -(picked * live).sum(-1) / count
    right = scores.argmax(-1) == colors
    exact = jnp.all(right | (live == 0), -1).astype(jnp.float32)
    tasks = jnp.asarray(float(len(colors)))
    metrics = {
        "loss": (per_task.sum(), tasks),
        "exact": (exact.sum(), tasks),
        "cells": ((right * live).sum(), live.sum()),
        "energy": (energy.sum(), tasks),
    }
    return per_task.mean() + gluing * energy.mean(), metrics
