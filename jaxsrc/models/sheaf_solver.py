"""The sheaf solver's encoder: cells of a task's grids to keys, and the colours that the least-squares extension gives a query.

Data flow for one task of p - 1 demonstrations and a query on h x w cells:

    stalks [p, h, w, i] -> embed [p, h, w, d] -> code of the task from the demonstrations [d]
    -> sheaf layers, each scaled and shifted by the code -> keys [p, h, w, k]
    -> ridge regression of the demonstrations' values on their keys, closed form -> values of the query -> colours
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field

from jaxsrc.errors import UserError
from jaxsrc.modules import kan_extension, long_range, sheaf
from jaxsrc.modules.norm import rms_norm
from jaxsrc.solver.episodes import Episode
from jaxsrc.solver.objects import NONE
from jaxsrc.solver.readout import COLORS, color_scores
from jaxsrc.solver.sections import LAYERS, SOURCES
from jaxsrc.solver.stalks import ATTRIBUTE_SCALE, ATTRIBUTES

READ = LAYERS + 16  # sources whose colours the encoder reads one-hot: layers, rays, palette, lines, object
BACKGROUND = LAYERS + 8  # index of the background colour among the sources
STALK = READ * (NONE + 1) + 2 * SOURCES + ATTRIBUTES


@dataclass(frozen=True, kw_only=True)
class SheafSolverConfig:
    """width: features a cell; stalk: stalk dimension (width / stalk channels); layers: diffusion layers; keys: features
    that the extension regresses on; maps: kind of restriction maps; long_range: also average over rows, columns, grid and
    same-colour components."""

    kind: Literal["sheaf_solver"] = "sheaf_solver"
    width: Annotated[int, Field(ge=8)] = 64
    stalk: Annotated[int, Field(ge=2)] = 8
    layers: Annotated[int, Field(ge=0)] = 3
    keys: Annotated[int, Field(ge=4)] = 96
    maps: Literal["diagonal", "orthogonal", "general"] = "diagonal"
    long_range: bool = True

    def check(self) -> None:
        """UserError where the stalks do not divide the width."""
        if self.width % self.stalk:
            raise UserError(f"experiment.model.stalk: expected a divisor of width {self.width}, got {self.stalk}; change one")


class QueryOutput(NamedTuple):
    """values: extended indicators of the query's cells [h*w, 10 + s]; scores: per readout (constant, copy, both) [h*w, 10];
    energy: mean Dirichlet energy of the layers' sections (the gluing loss)."""

    values: Float[Array, "n v"]
    scores: tuple[Float[Array, "n 10"], Float[Array, "n 10"], Float[Array, "n 10"]]
    energy: Float[Array, ""]


def stalk_inputs(episode: Episode) -> Float[Array, "p h w i"]:
    """Colours one-hot, which sources equal the cell's colour, which equal the background, and the attributes."""
    sources = episode.sources
    one_hot = jax.nn.one_hot(sources[..., :READ], NONE + 1, dtype=jnp.float32)
    own = (sources == sources[..., :1]).astype(jnp.float32)
    base = (sources == sources[..., BACKGROUND : BACKGROUND + 1]).astype(jnp.float32)
    values = episode.attributes.astype(jnp.float32) * jnp.asarray(ATTRIBUTE_SCALE)
    return jnp.concatenate([one_hot.reshape(*one_hot.shape[:-2], -1), own, base, values], -1)


def value_targets(episode: Episode) -> Float[Array, "p h w v"]:
    """Indicators that are extended: the cell's colour, and which sources show it (`readout.indicators`)."""
    constant = jax.nn.one_hot(episode.colors, COLORS, dtype=jnp.float32)
    copies = (episode.sources == episode.colors[..., None]).astype(jnp.float32)
    return jnp.concatenate([constant, copies], -1)


def _scale_shift(linear: nnx.Linear, code: Float[Array, "c"], x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    scale, shift = jnp.split(linear(code), 2, -1)
    return x * (1 + scale) + shift


class SheafLayer(nnx.Module):
    """One diffusion step on the sheaf that the cells' content defines, long-range means, and a pointwise network."""

    def __init__(self, config: SheafSolverConfig, rngs: nnx.Rngs):
        d = config.width
        small = nnx.initializers.variance_scaling(0.1, "fan_in", "normal")
        self.config = config
        self.maps = nnx.Linear(2 * d, 2 * sheaf.map_parameters(config.maps, config.stalk), rngs=rngs, kernel_init=small)
        self.inner = nnx.Linear(d, d, rngs=rngs)
        self.outer = nnx.Linear(d, d, rngs=rngs, kernel_init=small)
        self.long = nnx.Linear(4 * d, d, rngs=rngs, kernel_init=small) if config.long_range else None
        self.code = nnx.Linear(d, 2 * d, rngs=rngs, kernel_init=nnx.initializers.zeros)
        self.up = nnx.Linear(d, 2 * d, rngs=rngs)
        self.down = nnx.Linear(2 * d, d, rngs=rngs, kernel_init=small)

    def __call__(self, x: Array, code: Array, mask: Array, flat: long_range.FlatEdges) -> tuple[Array, Array]:
        live = mask[..., None]
        y = rms_norm(x) * live
        kernel, bias = self.maps.kernel[...], self.maps.bias[...]  # pyright: ignore[reportOptionalSubscript]
        maps = sheaf.content_maps(y, mask, kernel, bias, kind=self.config.maps, stalk=self.config.stalk)
        section = self.inner(y).reshape(*y.shape[:-1], self.config.stalk, -1)
        diffused, energy = sheaf.normalized_laplacian(maps, section)
        x = x - self.outer(nnx.gelu(diffused.reshape(y.shape)))
        if self.long is not None:
            x = x + nnx.gelu(self.long(jnp.concatenate(long_range.means(y, mask, flat), -1)))
        z = _scale_shift(self.code, code, rms_norm(x))
        return (x + self.down(nnx.gelu(self.up(z)))) * live, energy


class SheafSolver(nnx.Module):
    """Encoder of one task's episode; `vmap` it over tasks."""

    def __init__(self, config: SheafSolverConfig, rngs: nnx.Rngs):
        config.check()
        d = config.width
        self.config = config
        self.embed = nnx.Linear(STALK, d, rngs=rngs)
        self.pair_in = nnx.Linear(d + COLORS + SOURCES + 1, d, rngs=rngs)
        self.pair_out = nnx.Linear(d, d, rngs=rngs)
        self.code_out = nnx.Linear(2 * d, d, rngs=rngs)
        self.code_in = nnx.Linear(d, 2 * d, rngs=rngs, kernel_init=nnx.initializers.zeros)
        self.layers = nnx.List([SheafLayer(config, rngs) for _ in range(config.layers)])
        width = d * (config.layers + 1)
        self.gate = nnx.Linear(d, width, rngs=rngs, kernel_init=nnx.initializers.zeros)
        self.key = nnx.Linear(width, config.keys, rngs=rngs)
        self.ridge = nnx.Param(jnp.full((), -1.0))
        self.sharpness = nnx.Param(jnp.full((), 1.6))

    def task_code(self, embedded: Array, targets: Array, changed: Array, mask: Array) -> Float[Array, "d"]:
        """What the demonstrations do, from inputs and outputs together: means over all cells and over changed cells."""
        pair = jnp.concatenate([nnx.gelu(embedded), targets, changed[..., None]], -1)
        u = self.pair_out(nnx.gelu(self.pair_in(pair)))
        mean = lambda w: jnp.sum(u * w[..., None], (0, 1, 2)) / (jnp.sum(w) + 1e-3)
        code = jnp.concatenate([mean(mask), mean(mask * changed)])
        return rms_norm(nnx.gelu(self.code_out(code)))

    def keys(self, episode: Episode) -> tuple[Float[Array, "p h w k"], Float[Array, ""]]:
        """Keys of all cells, and the mean Dirichlet energy; the last pair's colours are never read."""
        mask = episode.mask.astype(jnp.float32)
        embedded = self.embed(stalk_inputs(episode))
        changed = (episode.colors != episode.sources[..., 0]).astype(jnp.float32)
        code = self.task_code(embedded[:-1], value_targets(episode)[:-1], changed[:-1], mask[:-1])
        x = _scale_shift(self.code_in, code, nnx.gelu(embedded)) * mask[..., None]
        flat = long_range.flat_edges(episode.sources[..., 0], mask)
        sections, energies = [rms_norm(x)], []
        for layer in self.layers:
            x, energy = layer(x, code, mask, flat)
            sections.append(rms_norm(x))
            energies.append(energy)
        joint = jnp.concatenate(sections, -1) * nnx.sigmoid(2.0 + self.gate(code))
        energy = sum(energies, jnp.zeros(())) / max(len(energies), 1)
        return rms_norm(self.key(joint)) * mask[..., None], energy

    def __call__(self, episode: Episode) -> QueryOutput:
        """Colours of the last pair's cells, extended from the cells of the others."""
        keys, energy = self.keys(episode)
        mask = episode.mask[:-1].reshape(-1).astype(jnp.float32)
        known = keys[:-1].reshape(-1, keys.shape[-1])
        values = value_targets(episode)[:-1].reshape(len(mask), -1)
        ridge = nnx.softplus(self.ridge[...]) + 1e-3
        weights = kan_extension.fit_primal(known, values, mask, ridge)
        extended = keys[-1].reshape(-1, keys.shape[-1]) @ weights
        sources = episode.sources[-1].reshape(-1, SOURCES).astype(jnp.int32)
        return QueryOutput(extended, color_scores(extended, sources), energy)
