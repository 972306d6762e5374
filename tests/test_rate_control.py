"""The rate is the target's from the first batch on, whatever the scores do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsrc import bench_rate
from jaxsrc.errors import UserError
from jaxsrc.modules import rate_control
from jaxsrc.modules.rate_control import Account, EnergyConfig, allowance, check, draw, exactly, gate, proportional, settle


@pytest.mark.parametrize("batch", [64, 1024])
@pytest.mark.parametrize("target", [0.01, 0.06, 0.2, 0.5, 0.9])
def test_fifty_batches_keep_within_a_tenth_of_the_target(target, batch):
    run = jax.jit(lambda owed: bench_rate.solved(target, batch, jax.random.key(0), owed))
    for owed in (-target * batch, 0.0, target * batch):  # all that the controller could have to start from
        rates = np.asarray(run(jnp.float32(owed)))
        for part in (rates[: bench_rate.SHIFT], rates[bench_rate.SHIFT :]):
            mean = np.convolve(part[100:], np.ones(50) / 50, "valid")
            assert np.abs(mean / target - 1).max() <= 0.1


def test_the_published_laws_do_not_settle():
    found = bench_rate.responses(0.06, 128)
    assert bench_rate.settled(found["solved threshold"][: bench_rate.SHIFT], 0.06) == 0
    for name in ("published class as it runs, AIMD", "published script"):
        assert bench_rate.settled(found[name][: bench_rate.SHIFT], 0.06) is None


@jax.jit
def both(key, wanted, temperature, mixed):
    scores = jnp.exp(2 * jax.random.normal(key, (64,)))
    return scores, gate(scores, wanted, temperature, mixed).inclusion, proportional(scores, wanted, mixed).inclusion


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 63.5), st.floats(0.1, 2.0), st.floats(0.0, 0.9))
def test_probabilities_sum_to_what_was_wanted_and_follow_the_scores(seed, wanted, temperature, mixed):
    scores, *found = both(jax.random.key(seed), *(jnp.float32(x) for x in (wanted, temperature, mixed)))
    for p in map(np.asarray, found):
        assert (p >= 0).all() and (p <= 1 + 1e-6).all()
        assert abs(p.sum() - wanted) < 2e-3
        assert (np.diff(p[np.argsort(np.asarray(scores))]) > -1e-5).all()  # a larger score is never less likely


def test_only_ratios_of_scores_matter():
    scores = jnp.exp(jax.random.normal(jax.random.key(0), (256,)))
    one, two = (gate(scores * f, jnp.float32(20), 0.5, 0.1) for f in (1.0, 1e4))
    np.testing.assert_allclose(one.inclusion, two.inclusion, atol=1e-4)
    np.testing.assert_allclose(two.threshold / one.threshold, 1e4, rtol=1e-3)


def test_equal_scores_are_equally_likely():
    found = gate(jnp.ones(100), jnp.float32(7), 0.5, 0.0)
    np.testing.assert_allclose(found.inclusion, 0.07, atol=1e-5)


def test_candidates_that_are_left_out_have_no_chance_and_the_others_all_of_it():
    scores, kept = jnp.exp(jax.random.normal(jax.random.key(0), (100,))), (jnp.arange(100) % 4 > 0).astype(jnp.float32)
    for wanted in (7.0, 60.0, 75.0, 90.0):
        p = np.asarray(gate(scores, jnp.float32(wanted), 0.5, 0.3, kept).inclusion)
        assert (p[::4] == 0).all() and abs(p.sum() - min(wanted, 75)) < 2e-3
        alone = gate(scores[kept > 0], jnp.float32(wanted), 0.5, 0.3).inclusion
        np.testing.assert_allclose(p[kept > 0], alone, atol=1e-4)


def test_systematic_draws_have_their_probabilities_and_a_fixed_count():
    p = jax.random.uniform(jax.random.key(0), (40,)) * 0.5
    p = exactly(p, jnp.float32(7.3))
    drawn = jax.vmap(lambda u: draw(p, u))((jnp.arange(4000) + 0.5) / 4000)
    assert set(np.unique(np.asarray(drawn.sum(1)))) == {7, 8}
    np.testing.assert_allclose(drawn.mean(0), p, atol=2e-3)


def test_what_is_owed_is_paid_and_never_more_than_a_batch():
    account = Account(jnp.float32(0), jnp.float32(0))
    account = settle(account, jnp.float32(0), account.energy, 0.1, 64, None)
    assert float(allowance(account, 0.1, 64, None, jnp.float32(0))[0]) == pytest.approx(12.8)
    for _ in range(5):
        account = settle(account, jnp.float32(0), account.energy, 0.1, 64, None)
    assert float(account.owed) == pytest.approx(6.4)


def test_energy_bounds_the_rate_and_pressure_lowers_it():
    energy = EnergyConfig(capacity=100.0, cost=10.0, regeneration=(1.0, 3.0))
    account, made = Account(jnp.float32(0), jnp.float32(100)), []
    for i in range(200):
        wanted, have = allowance(account, 0.5, 64, energy, jax.random.uniform(jax.random.key(i)))
        made.append(float(jnp.floor(wanted)))
        account = settle(account, jnp.floor(wanted), have, 0.5, 64, energy)
    assert np.mean(made[50:]) / 64 == pytest.approx(0.2, abs=0.01)  # what 2 of 10 energy a sample can pay
    pressed = EnergyConfig(pressure=0.5)
    assert float(allowance(Account(jnp.float32(0), jnp.float32(0)), 0.1, 64, pressed, jnp.float32(0.9))[0]) == pytest.approx(3.2)


@pytest.mark.parametrize(
    ("rate", "candidates", "capacity", "energy"),
    [
        (0.0, 64, 64, None),
        (1.2, 64, 64, None),
        (0.01, 64, 64, None),
        (0.5, 64, 16, None),
        (0.3, 640, 64, EnergyConfig()),
        (0.1, 640, 64, EnergyConfig(regeneration=(3.0, 1.0))),
    ],
)
def test_rates_that_cannot_be_held_are_refused(rate, candidates, capacity, energy):
    with pytest.raises(UserError, match=r"expected .* got"):
        check(rate, candidates, capacity, energy)


def test_solving_meets_its_target():
    x = rate_control.solve(lambda t: 10 - t, jnp.float32(3.25), jnp.float32(0), jnp.float32(10))
    assert float(x) == pytest.approx(6.75, abs=1e-4)
