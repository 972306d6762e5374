"""Step responses of rate controllers: the solved threshold of `rate_control` beside the published laws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsrc.modules import rate_control, sundew
from jaxsrc.modules.rate_control import Account
from jaxsrc.modules.sundew import SundewConfig

BATCHES, SHIFT, FACTOR = 600, 300, 20.0
WINDOW = 50
SCRIPT_KP, SCRIPT_KI = 0.0015, 0.00005  # gains of the published training script
COLUMNS = ("controller", "target", "batch", "from the start", "after a 20-fold jump", "rate at the end")

Rates = Float[Array, "t"]


def scores(key: Array, index: Array, batch: int) -> Float[Array, "b"]:
    """Gamma-distributed, mean 0.04, and `FACTOR` times as large from batch `SHIFT` on."""
    return 0.02 * jax.random.gamma(jax.random.fold_in(key, index), 2.0, (batch,)) * jnp.where(index >= SHIFT, FACTOR, 1.0)


def solved(target: float, batch: int, key: Array, owed: float | Array = 0.0) -> Rates:
    """`rate_control.gate`, which has no threshold to start from; owed: activations carried over from nowhere."""

    def step(account: Account, index: Array) -> tuple[Account, Array]:
        wanted, have = rate_control.allowance(account, target, batch, None, jnp.float32(0))
        found = rate_control.gate(scores(key, index, batch), wanted, 0.5, 0.1)
        made = rate_control.draw(found.inclusion, jax.random.uniform(jax.random.fold_in(key, index + BATCHES)))
        made = made.sum(dtype=jnp.float32)
        return rate_control.settle(account, made, have, target, batch, None), made / batch

    return jax.lax.scan(step, Account(jnp.asarray(owed, jnp.float32), jnp.float32(0)), jnp.arange(BATCHES))[1]


def published(target: float, batch: int, key: Array, controller: str = "pi") -> Rates:
    """`sundew.batch` at its defaults with this target."""
    config = SundewConfig(target_activation_rate=target, controller=controller)  # type: ignore[arg-type]

    def step(state: sundew.SundewState, index: Array) -> tuple[sundew.SundewState, Array]:
        drawn = sundew.draws(jax.random.fold_in(key, index + BATCHES), (batch,))
        state, out = sundew.batch(config, state, jnp.clip(scores(key, index, batch), 0, 1), drawn)
        return state, out.active.mean(dtype=jnp.float32)

    return jax.lax.scan(step, sundew.start(config), jnp.arange(BATCHES))[1]


def script(target: float, batch: int, key: Array) -> Rates:
    """The published training script's law: a moving average (0.3) of the rate since the start, kp 0.0015, ki 0.00005, I
    kept within 50 and decayed at the threshold's bounds, scores relative to their batch, threshold in [0, 1]."""

    def step(state: tuple[Array, ...], index: Array) -> tuple[tuple[Array, ...], Array]:
        threshold, integral, mean, made, seen = state
        raw = scores(key, index, batch)
        s = jnp.clip(raw / raw.mean(), 0, 2) / 2
        p = jnp.where(s > threshold, jax.nn.sigmoid((s - threshold) / 0.15), 0)
        active = jax.random.uniform(jax.random.fold_in(key, index + BATCHES), (batch,)) < p
        made, seen = made + active.sum(), seen + batch
        mean = 0.3 * made / seen + 0.7 * mean
        error = mean - target
        moved = threshold + SCRIPT_KP * error + SCRIPT_KI * integral
        inside = (moved > 0.01) & (moved < 0.99)
        integral = jnp.where(inside, jnp.clip(integral + error, -50, 50), 0.9 * integral)
        return (jnp.clip(moved, 0, 1), integral, mean, made, seen), active.mean(dtype=jnp.float32)

    zero = jnp.float32(0)
    return jax.lax.scan(step, (jnp.float32(0.5), zero, jnp.float32(target), zero, zero), jnp.arange(BATCHES))[1]


CONTROLLERS: dict[str, Callable[[float, int, Array], Rates]] = {
    "solved threshold": solved,
    "published class, PI": published,
    "published class as it runs, AIMD": partial(published, controller="aimd"),
    "published script": script,
}


def settled(rates: Float[np.ndarray, "t"], target: float) -> int | None:
    """Batches before the first window of `WINDOW` after which all keep within 10 % of the target; None if there is none."""
    mean = np.convolve(rates, np.ones(WINDOW) / WINDOW, "valid")
    outside = np.flatnonzero(np.abs(mean / target - 1) > 0.1)
    first = 0 if not len(outside) else int(outside[-1]) + 1
    return first if first < len(mean) else None


def responses(target: float, batch: int, seed: int = 0) -> dict[str, Float[np.ndarray, "t"]]:
    """Rate of each batch under each controller."""
    key = jax.random.key(seed)
    return {n: np.asarray(jax.jit(partial(f, target, batch))(key)) for n, f in CONTROLLERS.items()}


def table(targets: Sequence[float], batches: Sequence[int]) -> list[tuple]:
    """One row a controller, target and batch."""
    found = []
    for target in targets:
        for batch in batches:
            for name, rates in responses(target, batch).items():
                parts = settled(rates[:SHIFT], target), settled(rates[SHIFT:], target)
                shown = ["never" if p is None else str(p) for p in parts]
                found.append((name, target, batch, *shown, f"{rates[-WINDOW:].mean():.4f}"))
    return sorted(found, key=lambda r: list(CONTROLLERS).index(r[0]))
