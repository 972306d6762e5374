"""How many of a batch to activate and with what probabilities, so that the rate is the target's from the first batch on.

A controller that moves a threshold after it has seen a rate needs batches to settle, and at one activation in a hundred
it sees mostly noise. Here the threshold is solved for in every batch, the draw is systematic, so its count is the sum of
the probabilities rounded up or down, and what rounding or a full capacity left over is owed to the next batch: the
integral term of a controller, with its windup cut at one batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from pydantic import Field

from jaxsrc.errors import UserError

SPLIT = 16  # thresholds tried at a time; each round narrows the interval as much
ROUNDS = 5
TINY = 1e-12
Scalar = int | float | Array


@dataclass(frozen=True, kw_only=True)
class EnergyConfig:
    """An account that pays for activations: each costs `cost`, each sample weighed brings `regeneration` (least, largest) on
    average, the account holds `capacity`; pressure: share of the rate that an empty account takes away."""

    capacity: Annotated[float, Field(gt=0)] = 100.0
    cost: Annotated[float, Field(gt=0)] = 10.0
    regeneration: tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(ge=0)]] = (1.0, 3.0)
    pressure: Annotated[float, Field(ge=0, le=1)] = 0.0


class Account(NamedTuple):
    """owed: activations carried over from earlier batches; energy: of the account; float32[]."""

    owed: Array
    energy: Array


def check(rate: int | float, candidates: int, capacity: int, energy: EnergyConfig | None) -> None:
    """UserError for a rate outside (0, 1], or one that candidates, capacity or energy cannot reach."""
    if not 0 < rate <= 1:
        raise UserError(f"gate.rate: expected above 0 and at most 1, got {rate:g}; change it")
    if rate * candidates < 1 or capacity < 1:
        raise UserError(
            f"gate.rate: expected at least one of the {candidates} samples weighed at a time, got {rate * candidates:.3g} "
            f"at rate {rate:g}; raise the rate or the batch"
        )
    if capacity < int(rate * candidates):
        raise UserError(
            f"gate.rate: expected at most {capacity / candidates:.3g} with {capacity} places for {candidates} samples, got "
            f"{rate:g}; raise the capacity or lower the rate"
        )
    if energy is None:
        return
    low, high = energy.regeneration
    if low > high:
        raise UserError(f"gate.energy.regeneration: expected least <= largest, got {low} and {high}; swap them")
    reachable = (low + high) / 2 / energy.cost
    if rate > reachable:
        raise UserError(
            f"gate.rate: expected at most {reachable:.3g}, what the energy account regains ({(low + high) / 2:g} a sample) "
            f"can pay at {energy.cost:g} an activation, got {rate:g}; lower the rate or the cost"
        )


def allowance(
    account: Account, rate: int | float, candidates: int, energy: EnergyConfig | None, uniform: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(activations that may be made of this batch, energy before they are paid).

    rate * candidates + owed, times 1 - pressure (1 - E / capacity), at most what the account can pay; `uniform` in [0, 1)
    draws this batch's regeneration.
    """
    wanted = rate * candidates + account.owed
    if energy is None:
        return wanted, account.energy
    low, high = energy.regeneration
    wanted = wanted * (1 - energy.pressure * (1 - jnp.clip(account.energy / energy.capacity, 0, 1)))
    have = account.energy + candidates * (low + (high - low) * uniform)
    return jnp.minimum(wanted, jnp.floor(have / energy.cost)), have


def settle(
    account: Account,
    made: Float[Array, ""],
    have: Float[Array, ""],
    rate: int | float,
    candidates: int,
    energy: EnergyConfig | None,
) -> Account:
    """The account after `made` activations: what is still owed, at most one batch's share, and the energy left."""
    share = rate * candidates
    owed = jnp.clip(account.owed + share - made, -share, share)
    left = account.energy if energy is None else jnp.clip(have - made * energy.cost, 0, energy.capacity)
    return Account(owed.astype(jnp.float32), left.astype(jnp.float32))


def solve(
    total: Callable[[Float[Array, "k"]], Float[Array, "k"]], wanted: Float[Array, ""], low: Array, high: Array
) -> Float[Array, ""]:
    """x in [low, high] with total(x) = wanted, total falling in x: the interval cut in `SPLIT`, `ROUNDS` times over."""
    steps = jnp.arange(1, SPLIT) / SPLIT

    def narrow(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        at = (total(low + (high - low) * steps) >= wanted).sum()
        width = (high - low) / SPLIT
        return low + at * width, low + (at + 1) * width

    low, high = jax.lax.fori_loop(0, ROUNDS, narrow, (low, high))
    return (low + high) / 2


class Probabilities(NamedTuple):
    """inclusion: of each candidate, summing to what was wanted; threshold: the score with even odds."""

    inclusion: Float[Array, "c"]
    threshold: Float[Array, ""]


def gate(
    scores: Float[Array, "c"],
    wanted: Float[Array, ""],
    temperature: Scalar,
    mixed: Scalar,
    kept: Float[Array, "c"] | None = None,
) -> Probabilities:
    """p_i = (1 - m) sigmoid((ln s_i - ln t) / T) + m wanted / c, with t solved so that the sum is `wanted`.

    Scores are positive; only their ratios matter, so a shift of all of them by any factor changes nothing. `mixed` is the
    share of a uniform draw: no candidate is ever less likely than m times the rate. kept: 1 for the candidates that take
    part, whose number is c then, 0 for those whose chance is 0; None for all.
    """
    kept = jnp.ones(scores.shape[0]) if kept is None else kept
    wanted = jnp.clip(wanted, 0, kept.sum())
    logs = jnp.log(jnp.maximum(scores, TINY))
    edge = 12 * temperature  # beyond it the sigmoid is 0 or 1 to float32
    total = lambda t: (kept * jax.nn.sigmoid((logs[None] - t[:, None]) / temperature)).sum(1)
    level = solve(total, wanted, logs.min() - edge, logs.max() + edge)
    soft = exactly(kept * jax.nn.sigmoid((logs - level) / temperature), wanted, kept)
    return Probabilities((1 - mixed) * soft + mixed * even(wanted, kept), jnp.exp(level))


def even(wanted: Float[Array, ""], kept: Float[Array, "c"]) -> Float[Array, "c"]:
    """The same chance for each candidate that is kept."""
    return kept * jnp.minimum(wanted / jnp.maximum(kept.sum(), 1), 1)


def proportional(scores: Float[Array, "c"], wanted: Float[Array, ""], mixed: Scalar) -> Probabilities:
    """p_i = min(1, a ((1 - m) s_i / mean(s) + m)), a solved so that the sum is `wanted`; threshold: the score that is sure."""
    c = scores.shape[0]
    wanted = jnp.clip(wanted, 0, c)
    q = (1 - mixed) * scores / jnp.maximum(scores.mean(), TINY) + mixed
    q = jnp.maximum(q, 1e-6)
    total = lambda x: jnp.minimum(1, q[None] * jnp.exp(-x)[:, None]).sum(1)
    least = jnp.log(q.min())
    x = solve(total, wanted, jnp.minimum(least, -1.0), jnp.log(q.max() * c / jnp.maximum(wanted, TINY)) + 1)
    return Probabilities(exactly(jnp.minimum(1, q * jnp.exp(-x)), wanted), jnp.exp(x))


def exactly(
    p: Float[Array, "c"], wanted: Float[Array, ""], kept: Float[Array, "c"] | float = 1.0
) -> Float[Array, "c"]:
    """Probabilities moved so that they sum to `wanted`: scaled down, or their distances from one are, where `kept` is 1."""
    total, c = p.sum(), jnp.broadcast_to(kept, p.shape).sum()
    down = p * wanted / jnp.maximum(total, TINY)
    up = kept * (1 - (1 - p) * (c - wanted) / jnp.maximum(c - total, TINY))
    return jnp.clip(jnp.where(total > wanted, down, up), 0, 1)


def draw(inclusion: Float[Array, "c"], uniform: Float[Array, ""]) -> Bool[Array, "c"]:
    """Systematic sampling: candidate i where the running sum plus a uniform number passes a whole one (Madow 1949).

    Each is drawn with its probability; their count is the sum rounded down or up.
    """
    ends = jnp.floor(jnp.cumsum(inclusion) + uniform)
    return jnp.diff(ends, prepend=0.0) > 0
