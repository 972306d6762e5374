"""Schedules, clipping, accumulation and the packed optimiser against what they are defined to be."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsrc import optim
from jaxsrc.errors import UserError
from jaxsrc.optim import OptimConfig, make_optimizer, make_schedule


def params() -> dict:
    rng = np.random.default_rng(0)
    leaf = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"a": (leaf(3, 4), leaf(5)), "b": {"c": leaf()}}


def gradients(n: int) -> list[dict]:
    rng = np.random.default_rng(1)
    return [jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params()) for _ in range(n)]


def walk(optimizer: optax.GradientTransformation, steps: list[dict]) -> dict:
    here = params()
    state = optimizer.init(here)
    for gradient in steps:
        updates, state = optimizer.update(gradient, state, here)
        here = optax.apply_updates(here, updates)
    return here


@pytest.mark.parametrize(("kind", "end"), [("cosine", 0.1), ("linear", 0.1), ("constant", 1.0)])
def test_schedule_warms_up_to_the_peak_and_ends_at_its_fraction(kind, end):
    schedule = make_schedule(OptimConfig(learning_rate=0.5, warmup_steps=10, schedule=kind, final_fraction=0.1), steps=110)
    rates = np.array([schedule(i) for i in range(111)])
    np.testing.assert_allclose(rates[:11], 0.05 * np.arange(11), rtol=1e-6)
    assert np.all(np.diff(rates[10:]) <= 1e-9)
    np.testing.assert_allclose(rates[110], 0.5 * end, rtol=1e-5)


def test_schedule_without_warm_up_starts_at_the_peak():
    assert float(make_schedule(OptimConfig(learning_rate=0.5, warmup_steps=0), 10)(0)) == pytest.approx(0.5)


def test_schedule_counts_updates_not_steps():
    config = OptimConfig(learning_rate=1.0, warmup_steps=2, schedule="linear", final_fraction=0.0, accumulate=5)
    assert float(make_schedule(config, 60)(12)) == pytest.approx(0.0, abs=1e-7)
    assert float(make_schedule(config, 60)(7)) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_packing_changes_the_layout_of_the_state_and_nothing_else(kind, accumulate, monkeypatch):
    config = OptimConfig(kind=kind, learning_rate=0.1, warmup_steps=1, clip_norm=0.5, accumulate=accumulate)
    packed = walk(make_optimizer(config, 12), gradients(12))
    leaves = len(jax.tree.leaves(make_optimizer(config, 12).init(params())))
    monkeypatch.setattr(optim, "PACKED", 0)
    apart = walk(make_optimizer(config, 12), gradients(12))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), packed, apart)
    assert leaves < len(jax.tree.leaves(make_optimizer(config, 12).init(params())))


def test_clipping_bounds_the_whole_gradient():
    config = OptimConfig(kind="sgd", learning_rate=1.0, warmup_steps=0, schedule="constant", clip_norm=0.25, b1=0.0,
                         weight_decay=0.0)  # fmt: skip
    optimizer = make_optimizer(config, 10)
    huge = jax.tree.map(lambda g: 1e4 * g, gradients(1)[0])
    updates, _ = optimizer.update(huge, optimizer.init(params()), params())
    assert float(optax.global_norm(updates)) == pytest.approx(0.25, rel=1e-5)


def test_accumulation_makes_one_update_of_the_mean_gradient():
    plain = dict(kind="sgd", learning_rate=0.1, warmup_steps=0, schedule="constant", clip_norm=0.0, weight_decay=0.0)
    steps = gradients(4)
    mean = jax.tree.map(lambda *g: sum(g) / 4, *steps)
    expected = walk(make_optimizer(OptimConfig(**plain), 4), [mean])
    found = walk(make_optimizer(OptimConfig(**plain, accumulate=4), 4), steps)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    before = walk(make_optimizer(OptimConfig(**plain, accumulate=4), 4), steps[:3])
    jax.tree.map(np.testing.assert_array_equal, before, params())


def test_decay_shrinks_parameters_without_a_gradient():
    config = OptimConfig(learning_rate=0.1, warmup_steps=0, schedule="constant", weight_decay=0.5)
    zero = jax.tree.map(jnp.zeros_like, params())
    found = walk(make_optimizer(config, 4), [zero])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 0.95 * b, rtol=1e-5), found, params())


def test_a_training_that_is_all_warm_up_is_refused():
    with pytest.raises(UserError, match=r"optim.warmup_steps: expected fewer than the 50 updates .* got 50"):
        make_optimizer(OptimConfig(warmup_steps=50, accumulate=2), 100)
    with pytest.raises(UserError, match=r"optim.accumulate: expected at most the 3 training steps, got 4"):
        make_optimizer(OptimConfig(warmup_steps=0, accumulate=4), 3)
    make_optimizer(OptimConfig(warmup_steps=100), 0)  # stages in closed form only: nothing to warm up
