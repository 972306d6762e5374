"""An ARC run's encoder beside its twin; the closed-form readout stays outside the package."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.models.sheaf_solver import SheafSolver, stalk_inputs, value_targets
from jaxsrc.modules import kan_extension, long_range
from jaxsrc.protocol import PyTree
from jaxsrc.solver.episodes import Episode, EpisodeSampler
from jaxsrc.solver.readout import MODES, color_scores
from jaxsrc.solver.sections import SOURCES
from torch_bridge.exportable import Exportable, Inputs
from torch_bridge.maps import sheaf_encoder as sheaf_encoder_map
from torch_bridge.twins.sheaf_encoder import SheafEncoderTwin


def encoder_inputs(episode: Episode) -> Inputs:
    """What the encoder's twin reads of one task's episode."""
    mask = jnp.asarray(episode.mask, jnp.float32)
    flat = long_range.flat_edges(episode.sources[..., 0].astype(jnp.int32), mask)
    changed = (episode.colors != episode.sources[..., 0]).astype(jnp.float32)[:-1]
    found = {
        "stalks": stalk_inputs(episode),
        "targets": value_targets(episode)[:-1],
        "changed": changed[..., None],
        "mask": mask[..., None],
        "down": flat.down[..., None],
        "right": flat.right[..., None],
    }
    return {k: np.asarray(v, np.float32) for k, v in found.items()}


def of_arc(experiment: ArcExperiment, params: PyTree, episodes: Callable[[int], list[Episode]] | None = None) -> Exportable:
    """Stalks of one task's cells -> keys [p, h, w, k]; scores are the colours that the extension gives the query."""
    config = experiment.config.model
    twin = SheafEncoderTwin(config)
    table = sheaf_encoder_map.weight_map(config)
    host: Any = jax.device_get(params)
    encoder = {k: v for k, v in host.items() if k not in sheaf_encoder_map.READOUT}
    twin.load_state_dict(table.to_torch(encoder, twin.state_dict()))
    known: dict[int, tuple[np.ndarray, Episode]] = {}  # by the array's id, which stays its own while the array is kept
    graph = experiment.graph

    run = jax.jit(lambda p, e: nnx.merge(graph, p).keys(e)[0])

    def readout(keys: jax.Array, episode: Episode) -> jax.Array:
        model: SheafSolver = nnx.merge(graph, params)
        weights = episode.mask[:-1].reshape(-1).astype(jnp.float32)
        values = value_targets(episode)[:-1].reshape(len(weights), -1)
        ridge = nnx.softplus(model.ridge[...]) + 1e-3
        fitted = kan_extension.fit_primal(keys[:-1].reshape(-1, keys.shape[-1]), values, weights, ridge)
        sources = episode.sources[-1].reshape(-1, SOURCES).astype(jnp.int32)
        return color_scores(keys[-1].reshape(-1, keys.shape[-1]) @ fitted, sources)[MODES.index("both")]

    read = jax.jit(readout)
    find = lambda inputs: known[id(inputs["stalks"])][1]

    def drawn(count: int) -> list[Episode]:
        stage, held = experiment.config.stages[0], experiment.episodes[1]
        sampler = EpisodeSampler(held or experiment.episodes[0], stage.side, 1, stage.demonstrations)
        return [jax.tree.map(lambda x: jnp.asarray(x[0]), sampler.batch_at(0, i)) for i in range(count)]

    def samples(count: int) -> list[tuple[Inputs, np.ndarray]]:
        found = []
        for episode in (episodes or drawn)(count):
            inputs = encoder_inputs(episode)
            known[id(inputs["stalks"])] = (inputs["stalks"], episode)
            found.append((inputs, np.asarray(episode.colors[-1]).reshape(-1).astype(np.int64)))
        return found

    return Exportable(
        name="sheaf_encoder",
        twin=twin.eval(),
        inputs=("stalks", "targets", "changed", "mask", "down", "right"),
        output="keys",
        jax=lambda inputs: np.asarray(run(params, find(inputs))),
        samples=samples,
        scores=lambda inputs, out: np.asarray(read(jnp.asarray(out, jnp.float32), find(inputs))),
        classes=10,
        metadata={"sheaf.model": "sheaf_solver's encoder"},
    )
