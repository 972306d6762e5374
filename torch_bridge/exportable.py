"""A trained run beside its torch twin: the same weights, the same inputs by name, and real inputs to compare them on."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from jaxsrc import config as configuration
from jaxsrc.arc_experiment import ArcExperiment
from jaxsrc.errors import UserError
from jaxsrc.models.sheaf_solver import SheafSolver, stalk_inputs, value_targets
from jaxsrc.modules import kan_extension, long_range
from jaxsrc.modules.taps import Taps
from jaxsrc.protocol import PyTree
from jaxsrc.runs import OpenRun
from jaxsrc.solver.episodes import Episode, EpisodeSampler
from jaxsrc.solver.readout import MODES, color_scores
from jaxsrc.solver.sections import SOURCES
from jaxsrc.sweep import SweepExperiment
from jaxsrc.text_experiment import TextExperiment
from torch_bridge.maps import gated_lm as gated_lm_map
from torch_bridge.maps import sheaf_encoder as sheaf_encoder_map
from torch_bridge.twins.gated_lm import GatedLMTwin
from torch_bridge.twins.sheaf_encoder import SheafEncoderTwin

Inputs = dict[str, np.ndarray]
TWINS = "text (gated_lm), arc (sheaf_solver's encoder)"


@dataclass(frozen=True)
class Flexible:
    """An input's axis whose size may be left open, and its largest size."""

    input: str
    axis: int
    kind: Literal["length", "batch"]
    most: int


@dataclass(frozen=True)
class Exportable:
    """twin: loaded, in evaluation mode, float32; jax: inputs -> output, float32; samples: that many real inputs; scores:
    (inputs, output) -> logits [n, c] where the output decides among classes; labels: inputs -> int[n], -1 where unknown."""

    name: str
    twin: torch.nn.Module
    inputs: tuple[str, ...]
    output: str
    jax: Callable[[Inputs], np.ndarray]
    samples: Callable[[int], list[tuple[Inputs, np.ndarray]]]
    scores: Callable[[Inputs, np.ndarray], np.ndarray]
    flexible: tuple[Flexible, ...] = ()
    causal: bool = False
    classes: int = 0
    record: Callable[[Inputs], dict[str, np.ndarray]] | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    def torch(self, inputs: Inputs, dtype: torch.dtype = torch.float32) -> np.ndarray:
        """The twin's output; dtype float64 computes on the same float32 weights in double precision."""
        twin = self.twin if dtype == torch.float32 else copy.deepcopy(self.twin).to(dtype)
        with torch.no_grad():
            return twin(*tensors(self, inputs, dtype)).numpy()


def tensors(made: Exportable, inputs: Inputs, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Inputs in the twin's order; integers stay integers."""
    found = [torch.from_numpy(np.array(inputs[n])) for n in made.inputs]
    return [t if not t.is_floating_point() else t.to(dtype) for t in found]


def exportable(opened: OpenRun) -> Exportable:
    """The twin of an opened run. Errors: UserError for a model without a twin (names those that have one)."""
    experiment = opened.experiment
    if isinstance(experiment, TextExperiment):
        progress = opened.meta.step / max(experiment.config.steps, 1)
        made = of_text(experiment, opened.params, progress)
    elif isinstance(experiment, ArcExperiment):
        made = of_arc(experiment, opened.params)
    elif isinstance(experiment, SweepExperiment):
        raise UserError(f"expected one run, got a sweep of {len(experiment.members)}; name one with --member")
    else:
        raise UserError(f"expected a model with a torch twin, got {type(experiment).__name__}; these have one: {TWINS}")
    shown = {k: v for k, v in opened.meta.metrics.items() if "/" in k} or opened.meta.metrics
    made.metadata.update(
        {
            "sheaf.run": opened.config.name,
            "sheaf.step": str(opened.meta.step),
            "sheaf.revision": opened.meta.git or "unknown",
            "sheaf.metrics": json.dumps({k: round(v, 6) for k, v in shown.items()}),
            "sheaf.config": json.dumps(configuration.to_dict(opened.config)["experiment"]),
        }
    )
    return made


def of_text(experiment: TextExperiment, params: PyTree, progress: float = 1.0) -> Exportable:
    """tokens int32[b, n] -> logits [b, n, vocabulary]."""
    config = experiment.config.model
    twin = GatedLMTwin(config, progress)
    table = gated_lm_map.weight_map(config)
    twin.load_state_dict(table.to_torch(jax.device_get(params), twin.state_dict()))
    gating = config.gating(progress)
    run = jax.jit(lambda p, t: experiment.model(p)(t, gating=gating))

    def record(inputs: Inputs) -> dict[str, np.ndarray]:
        tokens = jnp.asarray(inputs["tokens"])
        seen = Taps()
        jax.eval_shape(lambda t: experiment.model(params)(t, gating=gating, taps=seen), tokens)
        taps = Taps(keep=[n for n in seen.names if not n.endswith((".pattern", ".dropout"))])
        experiment.model(params)(tokens, gating=gating, taps=taps)
        return {n: np.asarray(taps.kept[n]) for n in taps.names if n in taps.kept}

    def samples(count: int) -> list[tuple[Inputs, np.ndarray]]:
        tokens, weights = experiment.text.windows(config.length, count)
        labels = np.where(weights > 0, tokens[:, 1:], -1)
        return [({"tokens": t[None, :-1]}, y) for t, y in zip(tokens[:count], labels, strict=False)]

    with jax.default_matmul_precision("highest"):
        call = lambda inputs: np.asarray(run(params, jnp.asarray(inputs["tokens"])))
    names = [f"alpha of block {i}" for i in range(config.layers)]
    experiment.take({"step": np.int32(round(progress * max(experiment.config.steps, 1)))})
    alphas = {n: f"{row[1]:.6g}" for n, row in zip(names, experiment.alphas(params), strict=False)}
    return Exportable(
        name="gated_lm",
        twin=twin.eval(),
        inputs=("tokens",),
        output="logits",
        jax=call,
        samples=samples,
        scores=lambda inputs, out: out.reshape(-1, out.shape[-1]),
        flexible=(Flexible("tokens", 1, "length", config.length), Flexible("tokens", 0, "batch", 64)),
        causal=True,
        classes=config.vocabulary,
        record=record,
        metadata={"sheaf.model": "gated_lm", "sheaf.alphas": json.dumps(alphas)},
    )


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
    known: dict[int, Episode] = {}
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
    find = lambda inputs: known[id(inputs["stalks"])]

    def drawn(count: int) -> list[Episode]:
        stage, held = experiment.config.stages[0], experiment.episodes[1]
        sampler = EpisodeSampler(held or experiment.episodes[0], stage.side, 1, stage.demonstrations)
        return [jax.tree.map(lambda x: jnp.asarray(x[0]), sampler.batch_at(0, i)) for i in range(count)]

    def samples(count: int) -> list[tuple[Inputs, np.ndarray]]:
        found = []
        for episode in (episodes or drawn)(count):
            inputs = encoder_inputs(episode)
            known[id(inputs["stalks"])] = episode
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
