"""The step: pure in (state, batch), donated, compiled once, in three precisions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxsrc import runtime as runtimes
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.plan import fresh_state, make_step
from jaxsrc.prefetch import place
from jaxsrc.runtime import RuntimeConfig
from jaxsrc.state import INITIAL_SCALE, init_state
from jaxsrc.step import CompiledOnce, RecompileError, StepMetrics, train_step
from tests import toy

EASY = ("toy.inputs=1", "toy.batch=32", "toy.noise=0", "toy.widths=[32,32]", "optim.learning_rate=1e-2")


def setup(*overrides: str, precision: str = "float32"):
    plan = toy.plan([*overrides, "optim.warmup_steps=2"])
    runtime = runtimes.start(RuntimeConfig(device="cpu", precision=precision, compile_cache=""))
    return plan, runtime, fresh_state(plan, runtime), make_step(plan, runtime)


def batch_of(plan, runtime, step: int):
    return place(plan.experiment.batch_at(plan.seed, step), runtime)


def walk(plan, runtime, state, step, n: int) -> tuple:
    rows = []
    for i in range(n):
        state, metrics = step(state, batch_of(plan, runtime, i))
        rows += jax.device_get(metrics).rows()
    return state, rows


def mean(row: dict, name: str) -> float:
    return row[name][0] / row[name][1]


def test_the_step_learns():
    _, rows = walk(*setup(*EASY, "toy.stages=[300]"), 300)
    silence = (1 - np.exp(-2)) / 2  # mean of sin(x)**2 for x from N(0, 1): the loss of the answer 0
    assert np.mean([mean(r, "loss") for r in rows[-20:]]) < 0.05 * silence


def test_one_batch_can_be_learned_by_heart():
    plan, runtime, state, step = setup(*EASY, "toy.inputs=4", "toy.stages=[400]")
    batch = batch_of(plan, runtime, 0)
    for _ in range(400):
        state, metrics = step(state, batch)
    assert mean(jax.device_get(metrics).rows()[0], "loss") < 1e-3


def test_the_same_state_and_batch_give_the_same_bits_and_the_old_buffers_are_given_up():
    plan, runtime, first, step = setup()
    batch = batch_of(plan, runtime, 0)
    a, metrics_a = step(first, batch)
    assert all(x.is_deleted() for x in jax.tree.leaves(first.params))
    b, metrics_b = step(fresh_state(plan, runtime), batch)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    np.testing.assert_array_equal(metrics_a.values, metrics_b.values)


def test_every_step_draws_its_own_noise():
    plan, runtime, state, step = setup("optim.learning_rate=1e-30", "toy.noise=1.0")
    batch = batch_of(plan, runtime, 0)
    losses = []
    for _ in range(3):
        state, metrics = step(state, batch)
        losses.append(mean(jax.device_get(metrics).rows()[0], "loss"))
    assert len(set(losses)) == 3


def test_another_shape_is_an_error_that_names_it():
    plan, runtime, state, step = setup()
    state, _ = step(state, batch_of(plan, runtime, 0))
    longer = place({"x": np.zeros((9, 4), np.float32), "y": np.zeros((9, 1), np.float32)}, runtime)
    with pytest.raises(RecompileError, match=r"batch\.x: float32\[8,4\] then, float32\[9,4\] now"):
        step(state, longer)
    with pytest.raises(RecompileError, match=r"batch\.x: float32\[8,4\] then, int32\[8,4\] now"):
        step(state, place({"x": np.zeros((8, 4), np.int32), "y": np.zeros((8, 1), np.float32)}, runtime))
    with pytest.raises(RecompileError, match=r"batch\.z: absent then, float32\[8\] now"):
        step(state, {**batch_of(plan, runtime, 0), "z": place(np.zeros(8, np.float32), runtime)})
    step(state, batch_of(plan, runtime, 1))  # the refused calls took nothing away


def test_compiling_says_what_it_costs():
    once = CompiledOnce(lambda a, b: a @ b, "product", ("a", "b"))
    once(jnp.ones((32, 16)), jnp.ones((16, 8)))
    assert once.ready and once.compile_seconds > 0
    assert once.flops == pytest.approx(2 * 32 * 16 * 8, rel=0.1)
    assert once.memory_bytes >= 4 * (32 * 16 + 16 * 8 + 32 * 8)


def test_a_scan_of_steps_is_the_steps():
    plan, runtime, state, one = setup()
    apart, rows = walk(plan, runtime, state, one, 4)
    plan4, _, state4, four = setup("train.steps_per_call=4")
    stacked = jax.tree.map(lambda *x: np.stack(x), *(plan4.experiment.batch_at(0, i) for i in range(4)))
    together, metrics = four(state4, place(stacked, runtime, leading=1))
    found = jax.device_get(metrics).rows()
    assert len(found) == 4 and int(together.step) == 4
    for a, b in zip(rows, found, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_allclose([a[k] for k in a], [b[k] for k in a], rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), apart.params, together.params)


def test_the_average_follows_its_definition():
    plan, runtime, state, step = setup("optim.ema=0.9")
    before = jax.device_get(state.ema)
    state, _ = step(state, batch_of(plan, runtime, 0))
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * np.asarray(new), before, state.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.ema, expected)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_keeps_parameters_and_carry_in_float32_and_learns(precision):
    plan, runtime, state, step = setup(*EASY, "toy.stages=[150]", precision=precision)
    shapes = jax.tree.map(lambda x: x.dtype, (state.params, state.carry))
    state, rows = walk(plan, runtime, state, step, 150)
    assert jax.tree.map(lambda x: x.dtype, (state.params, state.carry)) == shapes
    assert [r for r in rows if r.get("overflow", (0,))[0]] == []
    _, full = walk(*setup(*EASY, "toy.stages=[150]"), 150)
    curve = lambda found: np.reshape([mean(r, "loss") for r in found], (15, 10)).mean(1)
    np.testing.assert_allclose(curve(rows), curve(full), atol=0.02 * curve(full)[0])  # of the first loss
    text = make_step(plan, runtime)._jitted.lower(state, batch_of(plan, runtime, 0)).as_text()
    assert {"bfloat16": "xbf16>", "float16": "xf16>"}[precision] in text


class Steep(toy.Toy):
    """A loss whose gradient is `slope`, so that the scale at which float16 overflows is known."""

    slope = 100.0

    def loss(self, params, carry, batch, key, *, train):
        total = sum(x.sum() for x in jax.tree.leaves(params)) * jnp.asarray(self.slope, batch["x"].dtype)
        return total, ({"seen": (jnp.float32(1), jnp.float32(1))}, carry)


def steep(slope: float):
    experiment = Steep(toy.ToyConfig())
    experiment.slope = slope
    optimizer = make_optimizer(OptimConfig(warmup_steps=0, clip_norm=0.0), 10)
    state = init_state(experiment, optimizer, 0, ema=True, scaled=True)
    step = jax.jit(train_step(experiment, optimizer, jnp.dtype(jnp.float16), 0.9))
    return state, lambda s: step(s, experiment.batch_at(0, 0))


def test_an_overflowed_step_is_skipped_and_counted_and_the_scale_halves_until_it_fits():
    state, step = steep(10.0)  # 10 * 2**15 is above float16's 65504, 10 * 2**12 below
    scales, skipped = [], []
    for i in range(5):
        new, metrics = step(state)
        row = jax.device_get(metrics).rows()[0]
        scales.append(row["loss_scale"][0] / INITIAL_SCALE)
        skipped.append(row["overflow"][0])
        same = jax.tree.map(np.array_equal, (new.params, new.opt_state, new.ema), (state.params, state.opt_state, state.ema))
        assert all(jax.tree.leaves(same)) == bool(skipped[-1])
        assert int(new.step) == i + 1 and np.isfinite([v for pair in row.values() for v in pair]).all()
        state = new
    assert skipped == [1, 1, 1, 0, 0] and scales == [1 / 2, 1 / 4, 1 / 8, 1 / 8, 1 / 8]
    assert int(state.loss_scale.overflows) == 3
    assert row["grad_norm"][0] == pytest.approx(10 * np.sqrt(sum(x.size for x in jax.tree.leaves(state.params))), rel=1e-3)


def test_the_scale_stops_at_its_floor():
    state, step = steep(np.inf)
    for _ in range(20):
        state, metrics = step(state)
    row = jax.device_get(metrics).rows()[0]
    assert row["loss_scale"][0] == 1.0 and row["overflow"][0] == 1.0


def test_metrics_travel_as_one_array_with_loss_first():
    plan, runtime, state, step = setup()
    _, metrics = step(state, batch_of(plan, runtime, 0))
    assert isinstance(metrics, StepMetrics) and len(jax.tree.leaves(metrics)) == 1
    assert metrics.names == ("loss", "grad_norm", "seen")
    row = jax.device_get(metrics).rows()[0]
    gradient = jax.grad(lambda p: plan.experiment.loss(
        p, fresh_state(plan, runtime).carry, plan.experiment.batch_at(0, 0),
        jax.random.fold_in(jax.random.key(plan.seed), 1), train=True)[0])(fresh_state(plan, runtime).params)  # fmt: skip
    assert row["grad_norm"][0] == pytest.approx(float(optax.global_norm(gradient)), rel=1e-5)
