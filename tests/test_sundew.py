"""The gate over a stream: against a plain Python account of the same algorithm, and a batch of one against it."""

import math
from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsrc.errors import ConfigError, UserError
from jaxsrc.modules import sundew
from jaxsrc.modules.sundew import Draws, SundewConfig, batched, check, sequential, significance, start
from jaxsrc.modules.sundew_presets import PRESETS, preset

EVENTS = 1500


def stream(seed=0, n=EVENTS):
    rng = np.random.default_rng(seed)
    return [rng.uniform(size=n).astype(np.float32) for _ in range(3)]


def oracle(c, scores, gate, regen):
    """Event by event in plain Python, written from the algorithm's description."""
    theta, integral, fast, slow, energy = c.activation_threshold, 0.0, 0.0, 0.0, c.max_energy
    last, rest, full, low, seen = False, 0, 0, 0, 0
    every = c.probe_every or 100
    for s, u, r in zip(scores.astype(float), gate.astype(float), regen.astype(float), strict=True):
        seen += 1
        probe = seen == 1 or seen % every == 0
        active, weighed = False, True
        if not probe and rest > 0:
            rest, weighed = rest - 1, False
        elif probe:
            active = True
        else:
            z = (s - theta - (-0.5 if last else 0.5) * c.hysteresis_gap) / max(c.gate_temperature, 1e-9)
            active = u < 1 / (1 + math.exp(-max(-700, min(700, z))))
        if weighed:
            last = active
        if active:
            energy = max(0.0, energy - c.eval_cost - c.base_processing_cost * (0.8 + 0.4 * s))
            rest = c.refractory
        else:
            energy = max(0.0, energy - c.dormant_tick_cost)
            regained = c.dormancy_regen[0] + (c.dormancy_regen[1] - c.dormancy_regen[0]) * r
            energy = min(c.max_energy, energy + regained * max(0.1, (1 - energy / c.max_energy) ** 2))
        fast += c.ema_alpha * (active - fast)
        slow += 0.05 * (active - slow)
        full = full + 1 if energy >= 95 else 0
        low = low + 1 if 80 >= energy else 0
        nudge = -0.003 if full >= 5 else 0.001 if low >= 5 else 0.0
        press = c.energy_pressure * (1 - energy / c.max_energy)
        if c.controller == "pi":
            error = c.target_activation_rate - (slow if energy / c.max_energy >= 0.95 else fast)
            error = 0.0 if abs(error) <= c.error_deadband else error
            integral = max(-c.integral_clamp, min(c.integral_clamp, integral + error))
            theta += press + nudge - c.adapt_kp * error - c.adapt_ki * integral
        else:
            theta = (theta * 0.98 if active else theta + 0.003) + press + nudge
        theta = max(c.min_threshold, min(c.max_threshold, theta))
        yield active, theta, energy


CASES = [
    SundewConfig(),
    preset("baseline", refractory=3),
    preset("tuned_v2", controller="aimd"),
    preset("custom_breast_probe", refractory=1, controller="aimd", energy_pressure=0.02),
]


@pytest.mark.parametrize("config", CASES)
def test_the_sequential_form_is_the_algorithm_event_by_event(config):
    scores, gate, regen = stream()
    _, out = jax.jit(lambda: sequential(config, start(config), jnp.asarray(scores), Draws(jnp.asarray(gate), jnp.asarray(regen))))()
    active, theta, energy = (np.array(x) for x in zip(*oracle(config, scores, gate, regen), strict=True))
    assert (np.asarray(out.active) == active).all()
    assert 0 < active.mean() < 1
    np.testing.assert_allclose(out.threshold, theta, atol=1e-5)
    np.testing.assert_allclose(out.energy, energy, atol=1e-3)


@pytest.mark.parametrize("config", CASES)
def test_batches_of_one_are_the_sequential_form(config):
    drawn = [jnp.asarray(x) for x in stream(1, 400)]
    one, seq = jax.jit(lambda: sequential(config, start(config), drawn[0], Draws(*drawn[1:])))()
    two, bat = jax.jit(lambda: batched(config, start(config), drawn[0][:, None], Draws(*(x[:, None] for x in drawn[1:]))))()
    assert (bat.active[:, 0] == seq.active).all()
    np.testing.assert_allclose(bat.threshold, seq.threshold, atol=1e-6)
    np.testing.assert_allclose([float(x) for x in two], [float(x) for x in one], atol=1e-4)


def test_batches_decide_as_the_sequence_does_where_nothing_depends_on_order():
    """A threshold that cannot move, no hysteresis, no rest: the two forms then differ in nothing."""
    config = SundewConfig(hysteresis_gap=0.0, min_threshold=0.6, max_threshold=0.6, activation_threshold=0.6)
    scores, gate, regen = (jnp.asarray(x) for x in stream(2, 1600))
    cut = lambda x: x.reshape(-1, 16)
    _, out = batched(config, start(config), cut(scores), Draws(cut(gate), cut(regen)))
    _, seq = sequential(config, start(config), scores, Draws(gate, regen))
    assert (out.active.reshape(-1) == seq.active).all() and 0.1 < seq.active.mean() < 0.9


def test_every_published_field_and_preset_is_here():
    published = {
        *("activation_threshold", "target_activation_rate", "ema_alpha", "adapt_kp", "adapt_ki", "error_deadband"),
        *("integral_clamp", "min_threshold", "max_threshold", "energy_pressure", "gate_temperature", "hysteresis_gap"),
        *("max_energy", "dormant_tick_cost", "dormancy_regen", "eval_cost", "base_processing_cost", "w_magnitude"),
        *("w_anomaly", "w_context", "w_urgency", "rng_seed", "refractory", "probe_every"),
    }
    assert {f.name for f in fields(SundewConfig)} == published | {"controller"} and len(published) == 24
    assert len(PRESETS) == 15
    for name in PRESETS:
        check(preset(name))
    with pytest.raises(UserError, match="tuned_v2"):
        preset("tuned2")


def test_significance_is_the_published_sum():
    features = jnp.array([[50.0, 0.5, 1.0, 0.0], [100.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_allclose(significance(features, SundewConfig()), [0.15 + 0.2 + 0.2, 1.0, 0.0], atol=1e-6)


def test_all_problems_of_a_configuration_are_named():
    with pytest.raises(ConfigError) as raised:
        check(SundewConfig(activation_threshold=0.99, w_anomaly=0.5, dormancy_regen=(3.0, 1.0), adapt_kp=-1.0))
    assert len(raised.value.problems) == 4
    assert all("expected" in p and "got" in p for p in raised.value.problems)


def test_the_loop_is_small_enough_to_be_one_function():
    """XLA keeps an inner loop on a CPU in one native function below 1 KiB of state: 3 floats in, 2 and a flag out, an event."""
    assert sundew.CHUNK * 21 + 64 < 1024
