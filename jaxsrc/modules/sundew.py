"""Sundew's gate over a stream of events: significance, threshold, energy; one event after another, or a batch at a time.

The algorithm is that of `sundew-algorithms` 0.7.1, whose configuration fields keep their names, meanings and defaults
here. Randomness comes in as arrays, so a run can be repeated and compared event by event.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxsrc.errors import ConfigError

SLOW = 0.05  # rate of the slow moving average, which steers while energy is nearly full
FULL, LOW, STREAK = 95.0, 80.0, 5  # energy at and above, at and below, and for how many events, before the threshold is nudged
NUDGE_DOWN, NUDGE_UP = 0.003, 0.001
ADD, MULTIPLY = 0.003, 0.98  # of the additive-increase, multiplicative-decrease controller
PROBE = 100  # events between probes where probe_every is 0
CHUNK = 40  # events of an inner loop: XLA makes one native function of a loop on a CPU where it carries below 1 KiB


@dataclass(frozen=True, kw_only=True)
class SundewConfig:
    """The published fields. controller: which of its two update laws: the PI law that its fields describe, or 'aimd', the
    only one that the published class ever runs, for which target, gains, deadband and integral mean nothing.

    probe_every 0 means every 100 events, as it does there; energy never blocks an activation, it only presses the
    threshold up.
    """

    activation_threshold: float = 0.4
    target_activation_rate: float = 0.2
    ema_alpha: float = 0.15
    adapt_kp: float = 0.05
    adapt_ki: float = 0.002
    error_deadband: float = 0.003
    integral_clamp: float = 0.30
    min_threshold: float = 0.05
    max_threshold: float = 0.95
    energy_pressure: float = 0.0
    gate_temperature: float = 0.08
    hysteresis_gap: float = 0.02
    max_energy: float = 100.0
    dormant_tick_cost: float = 0.5
    dormancy_regen: tuple[float, float] = (1.0, 3.0)
    eval_cost: float = 0.6
    base_processing_cost: float = 10.0
    w_magnitude: float = 0.30
    w_anomaly: float = 0.40
    w_context: float = 0.20
    w_urgency: float = 0.10
    rng_seed: int = 42
    refractory: int = 0
    probe_every: int = 0
    controller: Literal["pi", "aimd"] = "pi"


UNIT = ("min_threshold", "max_threshold", "target_activation_rate", "activation_threshold")
SIGNED = ("controller", "dormancy_regen", "rng_seed")  # the fields that need not be numbers from zero up


def check(config: SundewConfig) -> None:
    """Every problem at once, one line each, as a ConfigError."""
    c, problems = config, []
    for name, value in asdict(c).items():
        if name not in SIGNED and value < 0:
            problems.append(f"{name}: expected at least 0, got {value}; raise it")
        elif name in UNIT and value > 1:
            problems.append(f"{name}: expected from 0 to 1, got {value}; lower it")
    if not c.min_threshold <= c.activation_threshold <= c.max_threshold:
        problems.append(
            f"activation_threshold: expected from min_threshold {c.min_threshold} to max_threshold {c.max_threshold}, got "
            f"{c.activation_threshold}; change one of the three"
        )
    total = c.w_magnitude + c.w_anomaly + c.w_context + c.w_urgency
    if abs(total - 1) > 1e-6:
        problems.append(f"w_magnitude, w_anomaly, w_context, w_urgency: expected a sum of 1, got {total:g}; change one of them")
    low, high = c.dormancy_regen
    if not 0 <= low <= high:
        problems.append(f"dormancy_regen: expected 0 <= least <= largest, got {low} and {high}; change them")
    if c.max_energy <= 0:
        problems.append(f"max_energy: expected above 0, got {c.max_energy}; raise it")
    if problems:
        raise ConfigError(problems)


class Draws(NamedTuple):
    """Uniform numbers of each event in [0, 1): gate decides, regen scales the energy that a dormant event regains."""

    gate: Float[Array, "*n"]
    regen: Float[Array, "*n"]


class SundewState(NamedTuple):
    """Everything that the next event depends on; scalars float32[] and int32[]."""

    threshold: Array
    integral: Array
    rate: Array  # fast moving average of activations
    slow_rate: Array
    energy: Array
    last: Array  # whether the last event that was weighed was activated, bool[]
    resting: Array  # events that the gate still sleeps
    full_streak: Array
    low_streak: Array
    processed: Array


class Outcome(NamedTuple):
    """Of each event: whether it was activated, and threshold and energy after it (batched: after its batch)."""

    active: Bool[Array, "*n"]
    threshold: Float[Array, "*m"]
    energy: Float[Array, "*m"]


def start(config: SundewConfig) -> SundewState:
    """The state before the first event, energy full."""
    f, i = jnp.float32, jnp.int32
    return SundewState(
        f(config.activation_threshold), f(0), f(0), f(0), f(config.max_energy), jnp.bool_(False), i(0), i(0), i(0), i(0)
    )


def draws(key: Array, shape: tuple[int, ...]) -> Draws:
    gate, regen = jax.random.split(key)
    return Draws(jax.random.uniform(gate, shape), jax.random.uniform(regen, shape))


def significance(features: Float[Array, "*n 4"], config: SundewConfig) -> Float[Array, "*n"]:
    """clip(w . (magnitude / 100, anomaly, context, urgency), 0, 1), features in that order."""
    weights = jnp.array([config.w_magnitude / 100, config.w_anomaly, config.w_context, config.w_urgency])
    return jnp.clip(features @ weights, 0, 1)


def _levels(scores: Array, uniform: Array, config: SundewConfig) -> Array:
    """s - T logit(u): an event is activated with probability sigmoid((s - theta) / T) exactly when this exceeds theta."""
    temperature = max(config.gate_temperature, 1e-9)
    u = jnp.clip(uniform, 1e-7, 1 - 1e-7)
    return scores - temperature * (jnp.log(u) - jnp.log1p(-u))


def _cost(scores: Array, config: SundewConfig) -> Array:
    """Energy of an activation: evaluation + base (0.8 + 0.4 s)."""
    return config.eval_cost + config.base_processing_cost * (0.8 + 0.4 * scores)


def _regain(uniform: Array, config: SundewConfig) -> Array:
    low, high = config.dormancy_regen
    return low + (high - low) * uniform


def _taper(energy: Array, config: SundewConfig) -> Array:
    """Share of the regeneration that counts: max(0.1, (1 - E / E_max)^2)."""
    return jnp.maximum(0.1, jnp.square(1 - energy / config.max_energy))


def _control(c: SundewConfig, s: SundewState, energy: Array, observed: Array) -> SundewState:
    """Threshold after an activation rate was observed (0 or 1 for one event) and energy settled.

    PI: theta - (kp e + ki I) + pressure (1 - E / E_max) + nudge, e = target - moving average (0 within the deadband),
    I the clipped sum of e. AIMD: theta 0.98^observed + 0.003 (1 - observed) + pressure (1 - E / E_max) + nudge.
    """
    rate = c.ema_alpha * observed + (1 - c.ema_alpha) * s.rate
    slow = SLOW * observed + (1 - SLOW) * s.slow_rate
    share = energy / c.max_energy
    full = jnp.where(energy >= FULL, s.full_streak + 1, 0)
    low = jnp.where((energy <= LOW) & (energy < FULL), s.low_streak + 1, 0)
    nudge = jnp.where(full >= STREAK, -NUDGE_DOWN, jnp.where(low >= STREAK, NUDGE_UP, 0.0))
    more = c.energy_pressure * (1 - jnp.clip(share, 0, 1)) + nudge
    integral = s.integral
    if c.controller == "pi":
        error = c.target_activation_rate - jnp.where(share >= 0.95, slow, rate)
        error = jnp.where(jnp.abs(error) <= c.error_deadband, 0.0, error)
        integral = jnp.clip(integral + error, -c.integral_clamp, c.integral_clamp)
        threshold = s.threshold - (c.adapt_kp * error + c.adapt_ki * integral) + more
    else:
        threshold = s.threshold * (1 + (MULTIPLY - 1) * observed) + ADD * (1 - observed) + more
    threshold = jnp.clip(threshold, c.min_threshold, c.max_threshold)
    return s._replace(
        threshold=threshold, integral=integral, rate=rate, slow_rate=slow, energy=energy, full_streak=full, low_streak=low
    )


def sequential(
    config: SundewConfig, state: SundewState, scores: Float[Array, "n"], drawn: Draws
) -> tuple[SundewState, Outcome]:
    """One event after another: the reference semantics, a `lax.scan` over the stream."""
    c, every = config, config.probe_every or PROBE
    levels, cost, regain = _levels(scores, drawn.gate, c), _cost(scores, c), _regain(drawn.regen, c)

    def event(s: SundewState, x: tuple[Array, Array, Array]) -> tuple[SundewState, Outcome]:
        level, price, back = x
        number = s.processed + 1
        probe = (number == 1) | (number % every == 0)
        rests = ~probe & (s.resting > 0)
        edge = s.threshold + jnp.where(s.last, -0.5, 0.5) * c.hysteresis_gap
        active = probe | (~rests & (level > edge))
        dormant = jnp.maximum(s.energy - c.dormant_tick_cost, 0)
        dormant = jnp.minimum(dormant + back * _taper(dormant, c), c.max_energy)
        energy = jnp.where(active, jnp.maximum(s.energy - price, 0), dormant)
        new = _control(c, s, energy, active.astype(jnp.float32))
        resting = jnp.where(active, c.refractory, s.resting - rests.astype(jnp.int32)) if c.refractory else s.resting
        new = new._replace(last=jnp.where(rests, s.last, active), resting=resting, processed=number)
        return new, Outcome(active, new.threshold, energy)

    def chunk(s: SundewState, x: tuple[Array, Array, Array]) -> tuple[SundewState, Outcome]:
        return jax.lax.scan(event, s, x)

    whole = len(scores) // CHUNK * CHUNK
    blocks = lambda x: x[:whole].reshape(-1, CHUNK)
    state, first = jax.lax.scan(chunk, state, (blocks(levels), blocks(cost), blocks(regain)))
    state, rest = jax.lax.scan(event, state, (levels[whole:], cost[whole:], regain[whole:]))
    joined = [jnp.concatenate([a.reshape(-1), b]) for a, b in zip(first, rest, strict=True)]
    return state, Outcome(*joined)


def batch(
    config: SundewConfig, state: SundewState, scores: Float[Array, "b"], drawn: Draws
) -> tuple[SundewState, Outcome]:
    """A batch decided against one threshold, and one update of the controller after it; one event: exactly `sequential`.

    What depends on the order of events inside a batch differs from the reference: all compare with the threshold and the
    hysteresis of the batch's start; the controller sees the batch's rate as one observation, so gains count a batch;
    energy is spent, then regained, then clipped, once; a rest begins with the batch's last activation only.
    """
    c, s, b = config, state, scores.shape[0]
    number = s.processed + 1 + jnp.arange(b)
    probe = (number == 1) | (number % (c.probe_every or PROBE) == 0)
    rests = ~probe & (jnp.cumsum(~probe) <= s.resting)
    edge = s.threshold + jnp.where(s.last, -0.5, 0.5) * c.hysteresis_gap
    active = probe | (~rests & (_levels(scores, drawn.gate, c) > edge))
    spent = jnp.where(active, _cost(scores, c), c.dormant_tick_cost).sum()
    energy = jnp.maximum(s.energy - spent, 0)
    back = jnp.where(active, 0, _regain(drawn.regen, c)).sum()
    energy = jnp.minimum(energy + back * _taper(energy, c), c.max_energy)
    new = _control(c, s, energy, active.mean(dtype=jnp.float32))
    at = jnp.arange(b)
    final = jnp.max(jnp.where(active, at, -1))  # the last activation
    slept = (~probe & (at > final)).sum()
    left = jnp.where(final >= 0, c.refractory - slept, s.resting - rests.sum())
    weighed = jnp.max(jnp.where(rests, -1, at))  # the last event that did not rest
    last = jnp.where(weighed >= 0, active[weighed], s.last)
    new = new._replace(last=last, resting=jnp.maximum(left, 0).astype(jnp.int32), processed=s.processed + b)
    return new, Outcome(active, new.threshold, energy)


def batched(
    config: SundewConfig, state: SundewState, scores: Float[Array, "n b"], drawn: Draws
) -> tuple[SundewState, Outcome]:
    """`batch` over a stream of batches."""

    def step(s: SundewState, x: Any) -> tuple[SundewState, Outcome]:
        return batch(config, s, x[0], Draws(*x[1]))

    return jax.lax.scan(step, state, (scores, tuple(drawn)))
