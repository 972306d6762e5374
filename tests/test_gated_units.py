"""Gated units: the formulas in float64 numpy, the laws at alpha 0 and 1, exact gradients, schedules, and vmap over units."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pydantic import TypeAdapter, ValidationError
from scipy.special import erf, expit

from jaxsrc.errors import UserError
from jaxsrc.modules.gated_feedforward import ANY_UNITS, GatedFeedForward, kinds_of, matched_hidden
from jaxsrc.modules.gated_recurrence import GatedRecurrence
from jaxsrc.modules.gated_units import (
    MODES,
    UNITS,
    AlphaConfig,
    GatedUnit,
    GatingKinds,
    alpha_of,
    gating,
    normalized_entropy,
)

ACT = {
    "paGLU": expit,
    "paGTU": np.tanh,
    "paSwishU": lambda z: z * expit(z),
    "paReGLU": lambda z: np.maximum(z, 0),
    "paGELU": lambda z: z * 0.5 * (1 + erf(z / math.sqrt(2))),
    "paMishU": lambda z: z * np.tanh(np.logaddexp(0, z)),
    "paSiLU": lambda z: z * expit(z),
}


def unit_of(unit, alpha, width=6, hidden=5, gate_norm=False, seed=0):
    kinds = kinds_of(unit, alpha, gate_norm)
    return GatedUnit(width, hidden, nnx.Rngs(seed), kinds=kinds), gating(kinds, unit, alpha)


def wide(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), nnx.to_pure_dict(nnx.state(tree, nnx.Param)))


def formula(unit, p, x, alpha):
    a = x @ p["value"]["kernel"] + p["value"]["bias"]
    b = x @ p["gate"]["kernel"] + p["gate"]["bias"]
    return (np.tanh(a) if unit == "paGTU" else a) * (alpha * ACT[unit](b) + 1 - alpha)


def inputs(shape=(7, 6), seed=1, scale=1.0):
    return jnp.asarray(scale * np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_its_formula(unit, alpha):
    module, data = unit_of(unit, AlphaConfig(value=alpha))
    x = inputs()
    np.testing.assert_allclose(module(x, data), formula(unit, wide(module), np.asarray(x, np.float64), alpha), atol=1e-6)


@pytest.mark.parametrize("unit", UNITS)
def test_gradients_equal_central_differences_in_float64(unit):
    with jax.enable_x64(True):
        module, data = unit_of(unit, AlphaConfig(kind="learnable", value=0.4, per="channel"))
        graph, params = nnx.split(module)
        params = jax.tree.map(lambda v: v.astype(jnp.float64) + 0.1, params)
        x, data = jnp.asarray(inputs(), jnp.float64), jax.tree.map(jnp.asarray, data)
        loss = lambda p: jnp.sum(jnp.sin(nnx.merge(graph, p)(x, data)))
        got = jax.grad(loss)(params)
        assert float(jnp.abs(got["shift"][...]).min()) > 0
        for leaf, gradient in zip(jax.tree.leaves(params), jax.tree.leaves(got), strict=True):
            for at in list(np.ndindex(leaf.shape))[:6]:
                moved = lambda d, leaf=leaf, at=at: jax.tree.map(lambda v: v.at[at].add(d) if v is leaf else v, params)
                numeric = (loss(moved(1e-5)) - loss(moved(-1e-5))) / 2e-5
                # alpha's logit passes through float32 by design: 1e-5 of a step there carries float32 noise
                wanted = 2e-2 if leaf is params["shift"][...] or leaf.shape == got["shift"][...].shape else 1e-6
                np.testing.assert_allclose(gradient[at], numeric, atol=wanted, rtol=wanted)


@pytest.mark.parametrize("unit", UNITS)
def test_the_gradient_of_alpha_is_value_times_gate_less_one(unit):
    module, _ = unit_of(unit, AlphaConfig())
    x, p = inputs(), wide(module)
    kinds = module.kinds

    def total(alpha):
        return module(x, dataclasses.replace(gating(kinds, unit, AlphaConfig()), value=alpha)).sum()

    x64 = np.asarray(x, np.float64)
    wanted = (formula(unit, p, x64, 1.0) - formula(unit, p, x64, 0.0)).sum()
    np.testing.assert_allclose(jax.grad(total)(jnp.float32(0.37)), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", ANY_UNITS)
def test_alpha_zero_is_linear_in_the_input(unit):
    feed = GatedFeedForward(6, 5, nnx.Rngs(0), unit=unit, alpha=AlphaConfig(value=0.0))
    f = lambda x: feed.unit(x, feed.gating())
    if unit == "paGTU":  # its value path is tanh(A x): what is linear is the gate's part
        f = lambda x: jnp.arctanh(feed.unit(x, feed.gating()))
    x, y = inputs(scale=0.3), inputs(seed=2, scale=0.3)
    np.testing.assert_allclose(f(x) + f(y), f(x + y) + f(jnp.zeros_like(x)), atol=3e-6)
    for leaf in jax.tree.leaves(nnx.state(feed.unit.gate if unit != "paGRU" else feed.unit.reset, nnx.Param)):
        assert leaf.size  # the gate's maps are there, and move nothing
    if unit != "paGRU":
        feed.unit.gate.kernel[...] += 1.0
        before = f(x)
        feed.unit.gate.kernel[...] -= 1.0
        np.testing.assert_array_equal(before, f(x))


@pytest.mark.parametrize("value", [0.01, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("per", ["unit", "channel"])
def test_a_learnable_alpha_starts_where_it_says(value, per):
    module, data = unit_of("paGLU", AlphaConfig(kind="learnable", value=value, per=per))
    alpha = module.alpha(data, inputs())
    assert alpha.shape == (() if per == "unit" else (5,))
    np.testing.assert_allclose(alpha, value, rtol=1e-6)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, "half"])
def test_alpha_outside_its_range_is_refused(bad):
    with pytest.raises(ValidationError):
        TypeAdapter(AlphaConfig).validate_python({"value": bad})


def test_alpha_may_be_an_integer_zero_or_one():
    assert TypeAdapter(AlphaConfig).validate_python({"value": 1}).value == 1.0


def test_a_learnable_alpha_cannot_start_at_its_end_and_bounds_are_in_order():
    with pytest.raises(UserError, match="above 0 and below 1"):
        unit_of("paGLU", AlphaConfig(kind="learnable", value=0.0))
    with pytest.raises(UserError, match=r"at most alpha\.high"):
        unit_of("paGLU", AlphaConfig(low=0.9, high=0.1))
    with pytest.raises(UserError, match="expected one of paGLU, got paGTU"):
        gating(GatingKinds(), "paGTU", AlphaConfig())


@pytest.mark.parametrize(
    "kind,wanted",
    [("cosine", [0.9, 0.5, 0.1]), ("reversed", [0.1, 0.5, 0.9]), ("linear", [0.1, 0.5, 0.9]), ("fixed", [0.4, 0.4, 0.4])],
)
def test_a_schedule_is_a_pure_function_of_progress(kind, wanted):
    alpha = AlphaConfig(kind=kind, low=0.1, high=0.9, value=0.4)
    kinds = kinds_of("paGLU", alpha)
    at = lambda t: alpha_of(kinds, gating(kinds, "paGLU", alpha, t), inputs(), None)
    np.testing.assert_allclose([at(0.0), at(0.5), at(1.0)], wanted, atol=1e-6)
    np.testing.assert_allclose(at(7.0), wanted[-1], atol=1e-6)  # past the end it stays
    if kind == "cosine":
        np.testing.assert_allclose(at(0.25), 0.1 + 0.8 * 0.5 * (1 + math.cos(math.pi / 4)), atol=1e-6)


def test_entropy_opens_the_gate_where_the_input_is_even():
    x = jnp.stack([jnp.zeros(6), jnp.asarray([50.0, 0, 0, 0, 0, 0])])
    np.testing.assert_allclose(normalized_entropy(x, 1.0)[:, 0], [1.0, 0.0], atol=1e-6)
    p = np.exp([0.0, 1.0]) / np.exp([0.0, 1.0]).sum()
    wanted = -(p * np.log(p)).sum() / math.log(2)
    np.testing.assert_allclose(normalized_entropy(jnp.asarray([[0.0, 2.0]]), 2.0)[0, 0], wanted, atol=1e-6)
    module, data = unit_of("paGLU", AlphaConfig(kind="entropy"))
    assert module.alpha(data, inputs((3, 2, 6))).shape == (3, 2, 1)
    assert module(inputs((5, 5, 6)), data).shape == (5, 5, 5)  # batch and features of one size do not mix


def test_gate_norm_standardises_the_activated_gate():
    module, data = unit_of("paReGLU", AlphaConfig(value=1.0), gate_norm=True, hidden=8)
    x, p = inputs(), wide(module)
    assert module.norm is not None
    module.norm.norm.scale[...] = jnp.full(8, 1.5)
    module.norm.norm.bias[...] = jnp.full(8, 0.2)
    gate = np.maximum(np.asarray(x, np.float64) @ p["gate"]["kernel"] + p["gate"]["bias"], 0)
    gate = (gate - gate.mean(-1, keepdims=True)) / np.sqrt(gate.var(-1, keepdims=True) + 1e-5) * 1.5 + 0.2
    value = np.asarray(x, np.float64) @ p["value"]["kernel"] + p["value"]["bias"]
    np.testing.assert_allclose(module(x, data), value * gate, atol=2e-6)


def test_units_and_alphas_are_data_under_vmap():
    kinds = GatingKinds(UNITS, MODES)
    module = GatedUnit(6, 5, nnx.Rngs(0), kinds=kinds)
    x = inputs()
    choices = [(u, AlphaConfig(kind=m, value=0.3)) for u in UNITS for m in MODES]
    stacked = jax.tree.map(lambda *v: jnp.stack(v), *(gating(kinds, u, a, 0.25) for u, a in choices))
    many = jax.jit(jax.vmap(lambda data: module(x, data)))(stacked)
    for got, (unit, alpha) in zip(many, choices, strict=True):
        alone = kinds_of(unit, alpha)
        single = GatedUnit(6, 5, nnx.Rngs(0), kinds=alone)
        np.testing.assert_allclose(got, single(x, gating(alone, unit, alpha, 0.25)), atol=1e-6)


def test_a_choice_that_is_not_taken_leaves_finite_gradients():
    kinds = GatingKinds(UNITS, MODES)
    module = GatedUnit(6, 5, nnx.Rngs(0), kinds=kinds)
    graph, params = nnx.split(module)
    for value in (0.0, 1.0):
        data = gating(kinds, "paMishU", AlphaConfig(value=value))
        grads = jax.grad(lambda p, d=data: nnx.merge(graph, p)(inputs(scale=30.0), d).sum())(params)
        assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(grads))


def gru_reference(p, x, alpha):
    """One sequence, float64, the textbook's loop."""
    d = p["state"]["kernel"].shape[0]
    h, out = np.zeros(d), []
    for row in x:
        mapped = row @ p["x"]["kernel"] + p["x"]["bias"]
        back = h @ p["gates"]["kernel"]
        gate = lambda u: alpha * expit(u) + 1 - alpha
        r, z = gate(mapped[:d] + back[:d]), gate(mapped[d : 2 * d] + back[d:])
        u = mapped[2 * d :] + (r * h) @ p["state"]["kernel"]
        h = (1 - z) * h + z * (alpha * np.tanh(u) + (1 - alpha) * u)
        out.append(h)
    return np.stack(out)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_the_recurrence_is_a_gru_at_one_and_linear_at_zero(alpha):
    kinds = GatingKinds()
    cell = GatedRecurrence(3, 4, nnx.Rngs(0), kinds=kinds)
    data = gating(kinds, "paGLU", AlphaConfig(value=alpha))
    x = inputs((2, 9, 3))
    got = cell(x, data)
    for one, row in zip(got, np.asarray(x, np.float64), strict=True):
        np.testing.assert_allclose(one, gru_reference(wide(cell), row, alpha), atol=2e-6)
    if alpha == 0:
        np.testing.assert_allclose(cell(2 * x, data) - cell(x, data), cell(x, data) - cell(0 * x, data), atol=5e-6)


def test_the_recurrences_alpha_learns():
    kinds = GatingKinds(modes=("learnable",))
    cell = GatedRecurrence(3, 4, nnx.Rngs(0), kinds=kinds)
    graph, params = nnx.split(cell)
    data = gating(kinds, "paGLU", AlphaConfig(kind="learnable", value=0.7))
    grads = jax.grad(lambda p: nnx.merge(graph, p)(inputs((2, 5, 3)), data).sum())(params)
    assert abs(float(grads["shift"][...])) > 1e-3


@pytest.mark.parametrize("unit", ANY_UNITS)
def test_matched_networks_cost_what_the_plain_one_does(unit):
    width = 96
    feed = GatedFeedForward(width, matched_hidden(width, unit), nnx.Rngs(0), unit=unit, bias=False)
    size = sum(x.size for x in jax.tree.leaves(nnx.state(feed, nnx.Param)))
    assert abs(size / (8 * width**2) - 1) < 0.05
