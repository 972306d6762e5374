"""The encoder: it compiles once, overfits one batch, reads no hidden output, and keeps its parameter tree."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsrc.arc_experiment import ArcConfig, ArcExperiment
from jaxsrc.curriculum import StageConfig
from jaxsrc.data.augment import dihedral
from jaxsrc.errors import UserError
from jaxsrc.models.sheaf_solver import SheafSolver, SheafSolverConfig
from jaxsrc.solver.episodes import Episode
from jaxsrc.solver.learned import LearnedSections, _undo
from jaxsrc.solver.sections import SOURCES
from jaxsrc.solver.stalks import ATTRIBUTES
from jaxsrc.state import leaf_table
from jaxsrc.step import CompiledOnce, train_step

SMALL = SheafSolverConfig(width=16, stalk=4, layers=1, keys=16)
GOLDEN = Path(__file__).parent / "golden" / "sheaf_solver.json"


def random_batch(b=3, p=3, side=5, seed=0):
    rng = np.random.default_rng(seed)
    return Episode(
        rng.integers(0, 11, (b, p, side, side, SOURCES)).astype(np.int8),
        rng.integers(0, 3, (b, p, side, side, ATTRIBUTES)).astype(np.int8),
        rng.integers(0, 10, (b, p, side, side)).astype(np.int8),
    )


def experiment(model=SMALL, **more):
    return ArcExperiment(ArcConfig(model=model, stages=(StageConfig(scale=0, steps=5, batch=3),), **more))


@pytest.fixture(scope="module")
def solver():
    """A fresh encoder, compiled: one by one its operations take ten times as long."""
    model = SheafSolver(SMALL, nnx.Rngs(0))
    return jax.jit(lambda episode: model(episode))


def test_one_batch_is_overfitted_with_one_compile():
    made = experiment(augment=False)
    batch = jax.tree.map(jnp.asarray, random_batch())
    optimizer = optax.adam(1e-2)
    from jaxsrc.state import init_state

    state = jax.jit(lambda: init_state(made, optimizer, 0, ema=False, scaled=False))()
    step = CompiledOnce(train_step(made, optimizer, jnp.dtype("float32"), 0.0), "step", ("state", "batch"), donate=(0,))
    losses = []
    for _ in range(150):
        state, metrics = step(state, batch)
        value, weight = jax.device_get(metrics).rows()[0]["loss"]
        losses.append(value / weight)
    assert losses[-1] < 0.5 * losses[0]


def test_the_querys_colours_are_never_read(solver):
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), random_batch())
    other = dataclasses.replace(one, colors=one.colors.at[-1].set(9 - one.colors[-1]))
    for a, b in zip(solver(one).scores, solver(other).scores, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_order_of_demonstrations_does_not_matter(solver):
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), random_batch())
    swapped = jax.tree.map(lambda x: x[jnp.array([1, 0, 2])], one)
    np.testing.assert_allclose(solver(one).values, solver(swapped).values, atol=1e-4)


def test_padding_changes_no_score(solver):
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), random_batch())
    widen = lambda x, value: jnp.pad(x, [(0, 0), (0, 3), (0, 3)] + [(0, 0)] * (x.ndim - 3), constant_values=value)
    wide = Episode(widen(one.sources, 10), widen(one.attributes, 0), widen(one.colors, -1))
    small, large = solver(one).values, solver(wide).values.reshape(8, 8, -1)[:5, :5].reshape(25, -1)
    np.testing.assert_allclose(small, large, atol=2e-4)


@pytest.mark.parametrize("maps", ["diagonal", "orthogonal", "general"])
def test_every_kind_of_map_has_finite_gradients(maps):
    made = experiment(dataclasses.replace(SMALL, maps=maps))
    params, carry = jax.jit(made.init)(jax.random.key(0))
    batch = jax.tree.map(jnp.asarray, random_batch())
    grads = jax.jit(jax.grad(lambda p: made.loss(p, carry, batch, jax.random.key(1), train=True)[0]))(params)
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))
    assert any(float(jnp.abs(g).max()) > 0 for g in jax.tree.leaves(grads["layers"]))


def test_views_are_undone():
    x = np.random.default_rng(0).random((2, 4, 4, 3))
    for which in range(8):
        turned = np.stack([dihedral(one, which) for one in x])
        np.testing.assert_array_equal(_undo(turned, which), x)


def test_the_same_scores_whatever_the_number_of_absent_pairs():
    config = dataclasses.replace(SMALL, layers=0)
    params, _ = jax.jit(experiment(config).init)(jax.random.key(0))
    learned = LearnedSections(config, params, views=2)
    batch = random_batch(p=4)
    from jaxsrc.solver.episodes import StalkPair

    pairs = [StalkPair(batch.sources[0, i], batch.attributes[0, i], batch.colors[0, i]) for i in range(4)]
    two, again = learned.scores(pairs[:2], pairs[3]), learned.scores(pairs[1::-1], pairs[3])
    np.testing.assert_allclose(two, again, atol=1e-4)
    assert two.shape == (3, 5, 5, 10)
    ten, eleven = learned.scores(5 * pairs[:2], pairs[3]), learned.scores([*5 * pairs[:2], pairs[2]], pairs[3])
    np.testing.assert_array_equal(ten, eleven)  # a task with more demonstrations than ten is not an error


def test_stalks_must_divide_the_width():
    with pytest.raises(UserError, match=r"experiment.model.stalk: expected a divisor of width 63, got 8"):
        ArcExperiment(ArcConfig(model=SheafSolverConfig(width=63)))


def test_the_parameter_tree_is_the_stored_one():
    params, _ = jax.eval_shape(experiment(SheafSolverConfig()).init, jax.random.key(0))
    found = leaf_table(params)
    assert found == json.loads(GOLDEN.read_text())
