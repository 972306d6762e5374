"""The training state: plain arrays, the same for the same seed, the same shapes abstractly."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxsrc import runtime as runtimes
from jaxsrc.plan import abstract_state, fresh_state
from jaxsrc.runtime import RuntimeConfig
from jaxsrc.state import INITIAL_SCALE, bytes_of, count, leaf_table, parameter_table
from tests import toy


@pytest.fixture
def runtime():
    return runtimes.start(RuntimeConfig(device="cpu", compile_cache=""))


def test_state_depends_on_the_seed_and_on_nothing_else(runtime):
    a, b, c = (fresh_state(toy.plan([f"seed={s}"]), runtime) for s in (5, 5, 6))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(a.params["layers"][0]["w"], c.params["layers"][0]["w"])
    assert all(type(x) is type(a.step) and isinstance(x, jax.Array) for x in jax.tree.leaves(a))


@pytest.mark.parametrize("overrides", [[], ["optim.ema=0.9", "optim.warmup_steps=1"], ["toy.widths=[]"]])
def test_abstract_state_has_the_shapes_of_the_real_one(runtime, overrides):
    plan = toy.plan(overrides)
    assert leaf_table(abstract_state(plan, runtime)) == leaf_table(fresh_state(plan, runtime))


def test_the_average_starts_at_the_parameters_in_its_own_memory(runtime):
    state = fresh_state(toy.plan(["optim.ema=0.9", "optim.warmup_steps=1"]), runtime)
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    pairs = zip(jax.tree.leaves(state.ema), jax.tree.leaves(state.params), strict=True)
    assert all(a.unsafe_buffer_pointer() != b.unsafe_buffer_pointer() for a, b in pairs)
    assert state.best_params is state.ema


def test_loss_scale_exists_in_float16_only():
    half = runtimes.start(RuntimeConfig(device="cpu", precision="float16", compile_cache=""))
    state = fresh_state(toy.plan(), half)
    assert state.loss_scale is not None and float(state.loss_scale.scale) == INITIAL_SCALE
    brain = runtimes.start(RuntimeConfig(device="cpu", precision="bfloat16", compile_cache=""))
    assert fresh_state(toy.plan(), brain).loss_scale is None


def test_tables_name_and_count_every_parameter(runtime):
    state = fresh_state(toy.plan(["toy.widths=[6]", "toy.pad=2"]), runtime)
    rows = parameter_table(state.params)
    assert ("layers.0.w", "float32[4,6]", 24) in rows and ("pad.p001", "float32[2]", 2) in rows
    assert count(state.params) == sum(n for _, _, n in rows) == 4 * 6 + 6 + 6 + 1 + 4
    assert bytes_of(state.params) == 4 * count(state.params)
    assert len(leaf_table(state)) == len(jax.tree.leaves(state))
