"""Every core lowers for CUDA and mps: forward and gradient use only operations and types known there, no custom call."""

import jax
import jax.numpy as jnp
import pytest

from jaxsrc.arc_experiment import ArcConfig, ArcExperiment
from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.models.sheaf_solver import SheafSolverConfig
from jaxsrc.modules import kan_extension, long_range, metric_extension, sheaf
from jaxsrc.modules.gated_units import MODES, UNITS, AlphaConfig, GatingKinds, gating
from jaxsrc.modules.harmonic import harmonic_extension
from jaxsrc.modules.norm import rms_norm
from jaxsrc.text_experiment import TextConfig, TextExperiment
from tests.lowering import lowers_for

PLATFORMS = ("cuda", "mps")
MASK = jnp.ones((4, 5))


def diffuse(kind):
    size = sheaf.map_parameters(kind, 3)

    def run(y, kernel, bias, x):
        maps = sheaf.content_maps(y, MASK, kernel, bias, kind=kind, stalk=3)
        out, energy = sheaf.normalized_laplacian(maps, x)
        return jnp.sum(out**2) + energy + jnp.sum(sheaf.dirichlet_energy(maps, x))

    return run, (jnp.ones((4, 5, 2)), jnp.ones((4, 2 * size)), jnp.ones(2 * size), jnp.ones((4, 5, 3, 2)))


def fill(x, near):
    down, right = sheaf.edge_masks(MASK)
    grid = sheaf.GridSheaf(sheaf.EdgeMaps(near, near, down), sheaf.EdgeMaps(near, near, right), "diagonal")
    pinned = MASK.at[1:].set(0.0)
    return jnp.sum(harmonic_extension(grid, x, pinned, 1 - pinned, 5) ** 2)


X, F, ONE = jnp.ones((6, 3)), jnp.ones((6, 2)), jnp.ones(6)
CORES = {
    **{f"sheaf {kind}": diffuse(kind) for kind in ("diagonal", "orthogonal", "general")},
    "harmonic": (fill, (jnp.ones((4, 5, 3, 2)), jnp.ones((4, 5, 3)))),
    "long range": (
        lambda y: sum(jnp.sum(m**2) for m in long_range.means(y, MASK, long_range.flat_edges(MASK.astype(jnp.int32), MASK))),
        (jnp.ones((4, 5, 2)),),
    ),
    "primal": (lambda x, f: jnp.sum(kan_extension.fit_primal(x, f, ONE, 0.1) ** 2), (X, F)),
    "dual": (lambda x, f: jnp.sum(kan_extension.fit_dual(kan_extension.rbf(x, x, 1.0), ONE, f, 0.1) ** 2), (X, F)),
    "smooth": (lambda a, f: jnp.sum(kan_extension.smooth(a, f, ONE) ** 2), (jnp.ones((4, 6)), F)),
    "metric": (lambda f, d: jnp.sum(metric_extension.left(f, d)), (ONE, jnp.ones((6, 4)))),
    "norm": (lambda x: jnp.sum(rms_norm(x)), (X,)),
}


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("name", CORES)
def test_a_core_and_its_gradient_lower_for_the_platform(name, platform):
    function, args = CORES[name]
    assert lowers_for(function, *args, platform=platform).problems == []
    gradient = jax.grad(lambda first, *rest: function(first, *rest))
    assert lowers_for(gradient, *args, platform=platform).problems == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_language_models_loss_and_gradient_lower_with_every_unit_and_alpha(platform):
    kinds = GatingKinds(UNITS, MODES, gate_norm=True)
    config = GatedLMConfig(length=8, width=16, layers=1, heads=2, dropout=0.1)
    made = TextExperiment(TextConfig(model=config, batch=2), kinds, gating(kinds, "paMishU", AlphaConfig(kind="learnable")))
    params, carry = jax.eval_shape(made.init, jax.random.key(0))
    params, carry, batch = (
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), t) for t in (params, carry, made.abstract_batch(0))
    )
    step = lambda p, b: jax.value_and_grad(lambda q: made.loss(q, carry, b, jax.random.key(0), train=True)[0])(p)
    assert lowers_for(step, params, batch, platform=platform).problems == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_solvers_loss_and_gradient_lower_for_the_platform(platform):
    made = ArcExperiment(ArcConfig(model=SheafSolverConfig(width=16, stalk=4, layers=1, keys=8)))
    params, _ = made.init(jax.random.key(0))
    batch = jax.tree.map(lambda x: jnp.zeros((2, *x.shape[1:]), x.dtype), made.abstract_batch(0))
    step = lambda p, b: jax.value_and_grad(lambda q: made.loss(q, (), b, jax.random.key(0), train=True)[0])(p)
    assert lowers_for(step, params, batch, platform=platform).problems == []


def test_the_check_sees_what_it_is_for():
    assert lowers_for(jnp.linalg.cholesky, jnp.eye(3), platform="cuda").problems != []
    with jax.enable_x64(True):
        assert "type f64" in lowers_for(lambda x: x * 2, jnp.ones(3, jnp.float64), platform="mps").problems
