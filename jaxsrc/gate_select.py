"""From candidates to the samples of a step: score, give chances, draw, compact, weigh; all inside the compiled step."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxsrc.gate_config import (
    Gate,
    ImportanceGate,
    InfoBatchGate,
    SelectiveBackpropGate,
    Sizes,
    SundewGate,
    TopKGate,
    rate_of,
    takes_all,
)
from jaxsrc.modules import rate_control
from jaxsrc.modules.rate_control import Account, Probabilities
from jaxsrc.modules.selection import Selection, compact, effective_size, everything, unbiased_weights
from jaxsrc.modules.significance import MEASURED, aged, blend, capped, doubtful

LOSS, GRADIENT = MEASURED.index("loss"), MEASURED.index("gradient")
NEVER = -1


class GateState(NamedTuple):
    """measured: what the last training step of each sample, or a later scoring that is kept, showed [n, 4]; noted: the step of
    it, -1 for never [n]; seen, times: when each was last trained on, -1 for never, and how often [n]; account: see
    `rate_control`; step: int32[]; scored: samples that a forward pass scored so far; trained: those trained on."""

    measured: Float[Array, "n 4"]
    noted: Int[Array, "n"]
    seen: Int[Array, "n"]
    times: Int[Array, "n"]
    account: Account
    step: Int[Array, ""]
    scored: Float[Array, ""]
    trained: Float[Array, ""]


def start(gate: Gate, count: int) -> GateState:
    """Nothing seen, nothing owed, energy full."""
    energy = gate.energy.capacity if isinstance(gate, SundewGate) and gate.energy else 0.0
    zero, nothing = jnp.zeros(count, jnp.int32), jnp.float32(0)
    return GateState(
        jnp.zeros((count, len(MEASURED))),
        zero + NEVER,
        zero + NEVER,
        zero,
        Account(nothing, jnp.float32(energy)),
        jnp.int32(0),
        nothing,
        nothing,
    )


class Chosen(NamedTuple):
    """rows: numbers of the samples in each place; weights: of their losses, summing to about 1; threshold: score with even
    odds, 0 where there is none; scored: samples that a forward pass scored for it; doubted: candidates that were left out."""

    rows: Int[Array, "p"]
    weights: Float[Array, "p"]
    selection: Selection
    account: Account
    threshold: Float[Array, ""]
    scored: Float[Array, ""]
    doubted: Float[Array, ""]


Score = Callable[[Int[Array, "c"]], Float[Array, "c 4"]]


class Scorers(NamedTuple):
    """Forward passes that measure samples: the whole model's, and the early head's where there is one."""

    full: Score
    early: Score | None


def known(state: GateState, rows: Int[Array, "c"], horizon: float) -> Float[Array, "c 4"]:
    """What memory says of candidates now; horizon: in steps."""
    noted = state.noted[rows]
    age = (state.step - noted).astype(jnp.float32)
    return aged(state.measured[rows], age, horizon, (noted == NEVER).astype(jnp.float32))


def measure(
    gate: Gate, state: GateState, rows: Int[Array, "c"], scorers: Scorers, per_epoch: float
) -> tuple[Float[Array, "c 4"], GateState, Float[Array, ""]]:
    """The parts of significance of the candidates, the memory after it, and how many samples were scored for it."""
    c = jnp.float32(len(rows))
    horizon = gate.age * per_epoch / gate.rate if isinstance(gate, SundewGate) else float("inf")
    match gate:
        case TopKGate() | SelectiveBackpropGate() | SundewGate(policy="full") | ImportanceGate(scored="full"):
            return scorers.full(rows), state, c
        case SundewGate(policy="proxy"):
            assert scorers.early, "GatedExperiment refuses this policy without an early head"
            return scorers.early(rows), state, c
        case SundewGate(policy="every_k"):
            due = state.step % gate.every == 0
            found = jax.lax.cond(due, scorers.full, lambda r: known(state, r, horizon), rows)
            kept = jnp.where(due, found, state.measured[rows])
            noted = jnp.where(due, state.step, state.noted[rows])
            state = state._replace(measured=state.measured.at[rows].set(kept), noted=state.noted.at[rows].set(noted))
            return found, state, jnp.where(due, c, 0.0)
        case SundewGate():
            return known(state, rows, horizon), state, jnp.float32(0)
        case _:
            return known(state, rows, horizon), state, jnp.float32(0)


class Law(NamedTuple):
    """How a gate draws. chances: of each candidate; scores: what an overflow is cut by, positive; counts: how much each
    candidate counts when drawn; kept: 0 for candidates that are left out whatever their score, else 1."""

    chances: Probabilities
    scores: Float[Array, "c"]
    counts: Float[Array, "c"]
    kept: Float[Array, "c"]


def law(
    gate: Gate,
    state: GateState,
    rows: Int[Array, "c"],
    measured: Float[Array, "c 4"],
    spread: Float[Array, "c"],
    wanted: Float[Array, ""],
    per_epoch: float,
) -> Law:
    """Of the gate for these candidates, where it does not draw uniformly; the chances sum to `wanted`."""
    c, loss, one = len(rows), measured[:, LOSS], jnp.ones(len(rows))
    fresh = state.seen[rows] == NEVER
    match gate:
        case SundewGate():
            scores = capped(blend(measured, spread, gate.significance), gate.cap) + 1e-6
            age = (state.step - state.seen[rows]).astype(jnp.float32) / per_epoch
            if gate.refractory:
                scores = jnp.where((age < gate.refractory) & ~fresh, scores.min(), scores)
            if gate.probe:
                scores = jnp.where((age > gate.probe) | fresh, scores.max(), scores)
            kept = one
            if gate.drop and not gate.unbiased:
                spare = jnp.maximum(1 - (wanted + 1) / c, 0)
                kept = 1.0 - doubtful(measured[:, GRADIENT], gate.doubt, jnp.minimum(gate.drop, spare))
            return Law(rate_control.gate(scores, wanted, gate.temperature, gate.mixed, kept), scores, one, kept)
        case TopKGate():
            order = jnp.argsort(jnp.argsort(-loss))
            chances = Probabilities((order < jnp.round(wanted)).astype(jnp.float32), jnp.float32(0))
            return Law(chances, loss + 1e-6, one, one)
        case SelectiveBackpropGate():
            percentile = (jnp.argsort(jnp.argsort(loss)) + 1.0) / c
            return Law(rate_control.proportional(percentile**gate.beta, wanted, 0.0), loss + 1e-6, one, one)
        case InfoBatchGate():
            easy = (loss < loss.mean()) & ~fresh
            share = jnp.where(easy, 1 - gate.prune, 1.0)
            return Law(rate_control.proportional(share, wanted, 0.0), loss + 1e-6, 1 / share, one)
        case ImportanceGate():
            scores = measured[:, GRADIENT]
            return Law(rate_control.proportional(scores, wanted, gate.mixed), scores + 1e-6, one, one)
        case _:
            return uniform(wanted, one)


def uniform(wanted: Float[Array, ""], kept: Float[Array, "c"]) -> Law:
    """The same chance for each candidate that is kept."""
    one = jnp.ones(len(kept))
    return Law(Probabilities(rate_control.even(wanted, kept), jnp.float32(0)), one, one, kept)


def stretch(gate: Gate, step: Int[Array, ""], steps: int) -> tuple[Bool[Array, ""], Bool[Array, ""]]:
    """Whether this step lies in a first, and in a last stretch in which the gate lets chance decide."""
    match gate:
        case SundewGate():
            first, last = gate.warmup, gate.last
        case SelectiveBackpropGate() | InfoBatchGate():
            first, last = 0.0, gate.last
        case _:
            return jnp.bool_(False), jnp.bool_(False)
    return step < round(first * steps), step >= round((1 - last) * steps)


def weigh(gate: Gate, law: Law, selection: Selection, candidates: int) -> Float[Array, "p"]:
    """Weights of the places: those that make the mean gradient right, or each sample's share of all that count."""
    match gate:
        case SundewGate(unbiased=True) | ImportanceGate():
            return unbiased_weights(law.chances.inclusion[selection.places], selection.filled, candidates, gate.clip)
        case _:
            counts = law.counts[selection.places] * selection.filled
            return counts / jnp.maximum(counts.sum(), 1e-6)


def choose(
    gate: Gate,
    state: GateState,
    rows: Int[Array, "c"],
    spread: Float[Array, "n"],
    scorers: Scorers,
    sizes: Sizes,
    key: Array,
    per_epoch: float,
) -> tuple[Chosen, GateState]:
    """The samples of this step out of its candidates, and the gate's state with what scoring taught it."""
    if takes_all(gate) or sizes.candidates == sizes.capacity:
        selection = everything(len(rows))
        weights = selection.filled / len(rows)
        nothing = jnp.float32(0)
        return Chosen(rows, weights, selection, state.account, nothing, nothing, nothing), state
    rate, energy = rate_of(gate), gate.energy if isinstance(gate, SundewGate) else None
    power, drawing = jax.random.split(key)
    wanted, have = rate_control.allowance(
        state.account, rate, sizes.candidates, energy, jax.random.uniform(power)
    )
    wanted = jnp.minimum(wanted, sizes.capacity)
    measured, state, scored = measure(gate, state, rows, scorers, per_epoch)
    scored_law = law(gate, state, rows, measured, spread[rows], wanted, per_epoch)
    first, last = stretch(gate, state.step, sizes.steps)
    flat = uniform(wanted, jnp.where(first, 1.0, scored_law.kept))
    used = jax.tree.map(lambda a, b: jnp.where(first | last, a, b), flat._replace(scores=scored_law.scores), scored_law)
    active = rate_control.draw(used.chances.inclusion, jax.random.uniform(drawing))
    selection = compact(active, used.scores, sizes.capacity)
    made = selection.filled.sum()
    account = rate_control.settle(state.account, made, have, rate, sizes.candidates, energy)
    weights = weigh(gate, used, selection, sizes.candidates)
    doubted = (1 - used.kept).sum()
    return Chosen(rows[selection.places], weights, selection, account, used.chances.threshold, scored, doubted), state


def remember(state: GateState, chosen: Chosen, measured: Float[Array, "p 4"]) -> GateState:
    """The state after the step: what it showed of its samples, when, and what is owed."""
    n = len(state.seen)
    rows = jnp.where(chosen.selection.filled > 0, chosen.rows, n)  # padding writes nowhere
    return state._replace(
        measured=state.measured.at[rows].set(measured, mode="drop"),
        noted=state.noted.at[rows].set(state.step, mode="drop"),
        seen=state.seen.at[rows].set(state.step, mode="drop"),
        times=state.times.at[rows].add(1, mode="drop"),
        account=chosen.account,
        step=state.step + 1,
        scored=state.scored + chosen.scored,
        trained=state.trained + chosen.selection.filled.sum(),
    )


def figures(chosen: Chosen, sizes: Sizes) -> dict[str, tuple[Array, Array]]:
    """Metric sums of a step."""
    one, s = jnp.float32(1), chosen.selection
    return {
        "rate": (s.filled.sum(), jnp.float32(sizes.passed)),
        "threshold": (chosen.threshold, one),
        "effective": (effective_size(chosen.weights), one),
        "over_capacity": (s.overflow, one),
        "empty": (s.empty, one),
        "scored": (chosen.scored, jnp.float32(sizes.passed)),
        "doubted": (chosen.doubted, jnp.float32(sizes.candidates)),
        "energy": (chosen.account.energy, one),
    }
