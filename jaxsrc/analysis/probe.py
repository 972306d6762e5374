"""Linear probes: ridge in closed form and logistic regression by L-BFGS, for many sites in one program."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int


def ridge(x: Float[Array, "n d"], y: Float[Array, "n k"], penalty: float = 1.0) -> tuple[Float[Array, "d k"], Float[Array, "k"]]:
    """W, b that minimise |x W + b - y|^2 + penalty |W|^2, in closed form."""
    mx, my = x.mean(0), y.mean(0)
    gram = (x - mx).T @ (x - mx) + penalty * jnp.eye(x.shape[1], dtype=x.dtype)
    w = jax.scipy.linalg.solve(gram, (x - mx).T @ (y - my), assume_a="pos")
    return w, my - mx @ w


def logistic(
    x: Float[Array, "n d"],
    labels: Int[Array, "n"],
    classes: int,
    strength: float = 1.0,
    steps: int = 500,
    tolerance: float = 1e-4,
) -> tuple[Float[Array, "d k"], Float[Array, "k"]]:
    """W, b that minimise strength * sum of cross-entropies + |W|^2 / 2 (the scale of scikit-learn's C), by L-BFGS.

    Two classes share one vector: the first class's column is zero, as there. Stops where the largest entry of the gradient of
    the mean falls under `tolerance`.
    """
    n, d = x.shape
    free = 1 if classes == 2 else classes
    expand = lambda p: (jnp.pad(p[:-1], ((0, 0), (classes - free, 0))), jnp.pad(p[-1], (classes - free, 0)))

    def objective(p: Array) -> Array:
        w, b = expand(p)
        nll = optax.losses.softmax_cross_entropy_with_integer_labels(x @ w + b, labels).mean()
        return nll + jnp.square(p[:-1]).sum() / (2 * strength * n)

    solver = optax.lbfgs()
    both = optax.value_and_grad_from_state(objective)

    def going(state: tuple) -> Array:
        step, _, _, gradient = state
        return (step < steps) & (jnp.abs(gradient).max() > tolerance)

    def one(state: tuple) -> tuple:
        step, p, inner, _ = state
        value, gradient = both(p, state=inner)
        updates, inner = solver.update(gradient, inner, p, value=value, grad=gradient, value_fn=objective)
        return step + 1, optax.apply_updates(p, updates), inner, gradient

    start = jnp.zeros((d + 1, free), x.dtype)
    first = jnp.full_like(start, jnp.inf)
    return expand(jax.lax.while_loop(going, one, (jnp.int32(0), start, solver.init(start), first))[1])


@partial(jax.jit, static_argnames=("classes", "kind"))
def probe_sites(
    fit: Float[Array, "s n d"], labels: Int[Array, "n"], test: Float[Array, "s m d"], *, classes: int, kind: str = "logistic"
) -> tuple[Int[Array, "s m"], Float[Array, "s d k"]]:
    """Predictions on the test features of every site, and the probes' weights; one site at a time, one program."""

    def one(site: tuple[Array, Array]) -> tuple[Array, Array]:
        x, y = site
        if kind == "logistic":
            w, b = logistic(x, labels, classes)
        else:
            w, b = ridge(x, jax.nn.one_hot(labels, classes))
        return (y @ w + b).argmax(-1), w

    return jax.lax.map(one, (fit, test))


def look_up(keys: list, labels: Int[np.ndarray, "n"], test: list, classes: int) -> Int[np.ndarray, "m"]:
    """The commonest label of each key, the commonest of all where a key is new: what a table without a model would say."""
    table: dict = {}
    for key, label in zip(keys, labels.tolist(), strict=True):
        table.setdefault(key, np.zeros(classes, int))[label] += 1
    common = int(np.bincount(labels, minlength=classes).argmax())
    return np.array([int(table[k].argmax()) if k in table else common for k in test])
