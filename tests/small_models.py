"""Small models on weights moved off their start, for the bridge's tests."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxsrc.arc_experiment import ArcConfig, ArcExperiment
from jaxsrc.data.expression_sampler import SamplerConfig
from jaxsrc.data.text import TextDataConfig
from jaxsrc.depth_data import DepthDataConfig
from jaxsrc.depth_experiment import DepthConfig, DepthExperiment
from jaxsrc.models.depth_transformer import DepthTransformerConfig
from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.models.sheaf_solver import SheafSolverConfig
from jaxsrc.models.vit import ViT, ViTConfig
from jaxsrc.modules.gated_units import AlphaConfig
from jaxsrc.solver.episodes import Episode
from jaxsrc.solver.sections import SOURCES
from jaxsrc.solver.stalks import ATTRIBUTES
from jaxsrc.text_experiment import TextConfig, TextExperiment
from torch_bridge.exportable import Exportable
from torch_bridge.runs.arc import of_arc
from torch_bridge.runs.depth import of_depth
from torch_bridge.runs.pictures import Pictures, of_pictures
from torch_bridge.runs.text import of_text

ALPHA = AlphaConfig(kind="learnable", value=0.4, per="channel")


def moved(params, seed=0, by=0.1):
    """Every number pushed at random, so that none is at a value where a fault would not show."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: x + by * jnp.asarray(rng.normal(size=x.shape), x.dtype), params)


def text_file(folder) -> TextDataConfig:
    path = folder / "a.txt"
    rng = np.random.default_rng(0)
    path.write_text(" ".join(rng.choice(["red", "green", "blue", "fish"], 400)))
    return TextDataConfig(source=str(path))


def small_lm(folder, unit="paGELU", alpha=ALPHA, gate_norm=True, **more) -> tuple[TextExperiment, dict, Exportable]:
    config = GatedLMConfig(length=16, width=32, layers=2, heads=2, unit=unit, alpha=alpha, gate_norm=gate_norm, **more)
    experiment = TextExperiment(TextConfig(data=text_file(folder), model=config, batch=2, steps=10))
    params = moved(jax.jit(experiment.init)(jax.random.key(0))[0])
    return experiment, params, of_text(experiment, params)


def episodes(count, side=5, pairs=3):
    found = []
    for i in range(count):
        rng = np.random.default_rng(i)
        colors = rng.integers(0, 10, (pairs, side, side)).astype(np.int8)
        colors[:, :, -1] = -1  # a column outside the grids
        sources = rng.integers(0, 11, (pairs, side, side, SOURCES)).astype(np.int8)
        values = rng.integers(0, 3, (pairs, side, side, ATTRIBUTES)).astype(np.int8)
        found.append(Episode(jnp.asarray(sources), jnp.asarray(values), jnp.asarray(colors)))
    return found


def small_encoder() -> Exportable:
    experiment = ArcExperiment(ArcConfig(model=SheafSolverConfig(width=16, stalk=4, layers=1, keys=16)))
    return of_arc(experiment, moved(jax.jit(experiment.init)(jax.random.key(0))[0]), episodes)


def small_depth(track="rewrite", gate=None, **more) -> Exportable:
    sizes = {"width": 32, "layers": 2, "heads": 2, "hidden": 48, "length": 40, "dropout": 0.0}
    model = DepthTransformerConfig(**{**sizes, **more}, gate=gate)
    data = DepthDataConfig(examples=60, sampler=SamplerConfig(depths=(0, 1), operands=(2, 4), numbers=9))
    experiment = DepthExperiment(DepthConfig(track=track, data=data, model=model))
    return of_depth(experiment, moved(jax.jit(experiment.init)(jax.random.key(0))[0]))


def small_vit(gate=None, **more) -> Exportable:
    config = ViTConfig(patch=4, width=32, layers=2, heads=2, hidden=48, gate=gate, **more)
    graph, state = nnx.split(ViT(config, 8, 3, 10, nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    held_out = lambda n: (rng.integers(0, 256, (n, 8, 8, 3)).astype(np.uint8), rng.integers(0, 10, n))
    return of_pictures(Pictures(config, graph, 8, 3, 10, 0.47, 0.25, held_out), moved(nnx.to_pure_dict(state)))
