"""A nested-arithmetic run's transformer beside its twin; the rewrite track's program reads rows both ways or causally."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsrc.data.expressions import Expression
from jaxsrc.depth_data import Pool, rewrite_pools, sequence_pool
from jaxsrc.depth_experiment import DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.protocol import PyTree
from torch_bridge.exportable import Exportable, Flexible, Inputs, record
from torch_bridge.maps.depth_transformer import depth_transformer_map
from torch_bridge.twins.depth_export import DepthTwin


def _held_out(experiment: DepthExperiment, count: int) -> list[Expression]:
    """Expressions of the training depths, none of them trained on, depths in turn."""
    depths = sorted(set(experiment.config.data.sampler.depths))
    parts = [experiment.tests(d, -(-count // len(depths)), seed=2) for d in depths]
    return [e for group in zip(*parts, strict=True) for e in group][:count]


def _rows(pool: Pool, length: int, take: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and labels int[take, length] of rows spread over a pool; label -1 where nothing is asked."""
    at = np.linspace(0, len(pool.tokens) - 1, take).round().astype(int)
    wide = lambda x: np.pad(x.astype(np.int32), ((0, 0), (0, length - x.shape[1])))
    asked = (np.arange(pool.tokens.shape[1]) >= pool.begin[at][:, None]) & (pool.labels[at] > 0)
    return wide(pool.tokens[at]), wide(np.where(asked, pool.labels[at] + 1, 0)) - 1


def of_depth(experiment: DepthExperiment, params: PyTree) -> Exportable:
    """tokens int32[b, n] -> logits [b, n, v]; in the rewrite track also two_way int32[b], how many tokens at a row's start see
    each other: the whole text for marks, none for a reduction.

    Errors: UserError for a rewrite track whose marks attend to the nearest match: the twin knows softmax alone.
    """
    c, size = experiment.config, experiment.size
    rewrite = c.track == "rewrite"
    if rewrite and c.model.marking != "softmax":
        raise UserError(
            f"expected softmax marking for a twin, got {c.model.marking}; train with experiment.model.marking=softmax"
        )
    length = max(c.model.length, c.reduce_length) if rewrite else c.model.length
    twin = DepthTwin(c.model, size, length)
    table = depth_transformer_map(c.model)
    twin.load_state_dict(table.to_torch(jax.device_get(params), twin.state_dict()))

    def model(p: PyTree, inputs: dict[str, jax.Array], **more) -> jax.Array:
        prefix = inputs["two_way"] if rewrite else None
        return nnx.merge(experiment.graph, p)(inputs["tokens"], prefix=prefix, **more)[0]

    run = jax.jit(model)
    arrays = lambda inputs: {k: jnp.asarray(v) for k, v in inputs.items()}

    def samples(count: int) -> list[tuple[Inputs, np.ndarray]]:
        items = _held_out(experiment, count)
        if not rewrite:
            rows = _rows(sequence_pool(c.track, items, length, c.data.reverse), length, count)
            return [({"tokens": t[None]}, y) for t, y in zip(*rows, strict=True)]
        marks, reductions = rewrite_pools(items, c.data, c.model.length, c.reduce_length)
        found = []
        for i, pool in enumerate((reductions, marks)):  # the first is causal, which is checked on it
            for t, y in zip(*_rows(pool, length, -(-(count - i) // 2)), strict=True):
                seen = (t != 0).sum() if pool is marks else 0
                found.append(({"tokens": t[None], "two_way": np.array([seen], np.int32)}, y))
        return found

    inputs = ("tokens", "two_way") if rewrite else ("tokens",)
    return Exportable(
        name="depth_transformer",
        twin=twin.eval(),
        inputs=inputs,
        output="logits",
        jax=lambda i: np.asarray(run(params, arrays(i))),
        samples=samples,
        scores=lambda i, out: out.reshape(-1, out.shape[-1]),
        flexible=(Flexible("tokens", 1, "length", length), *(Flexible(name, 0, "batch", 64) for name in inputs)),
        causal=True,
        classes=size,
        record=lambda i: record(lambda taps: model(params, arrays(i), taps=taps)),
        metadata={"sheaf.model": "depth_transformer", "sheaf.track": c.track},
    )
