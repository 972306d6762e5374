"""The extensions in float32 and half precision, batched, masked and differentiated; leave-one-out against refitting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxsrc.modules import kan_extension as kan
from jaxsrc.modules import metric_extension as metric

B, P, N, M, D, V = 2, 3, 4, 5, 3, 2


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape))


def ridge_regression(features, values, weight, ridge):
    """The normal equations, written out in float64."""
    x, f, w = (np.asarray(a, np.float64) for a in (features, values, weight))
    return np.linalg.solve(x.T @ (w[:, None] * x) + ridge * np.eye(x.shape[1]), x.T @ (w[:, None] * f))


@pytest.mark.parametrize("n", [2, 9])
def test_the_extension_of_weighted_cells_is_weighted_ridge_regression(n, float64):
    x, f, y, w = normal(0, n, D), normal(1, n, V), normal(2, M, D), jnp.abs(normal(3, n))
    np.testing.assert_allclose(kan.extend(x, f, w, y, 0.3), y @ ridge_regression(x, f, w, 0.3), atol=1e-10)


@pytest.mark.parametrize(("n", "system"), [(2, 2), (9, D)])
def test_the_extension_solves_the_smaller_of_the_two_systems(n, system, monkeypatch):
    seen = []

    def record(a, b):
        seen.append(a.shape[-1])
        return b

    monkeypatch.setattr(kan, "solve_spd", record)
    jax.eval_shape(lambda x, f, w, y: kan.extend(x, f, w, y, 0.1), *map(jnp.ones, [(n, D), (n, V), (n,), (M, D)]))
    assert seen == [system]


def test_the_dual_form_with_a_linear_kernel_is_the_primal_form(float64):
    x, f, w, y = normal(0, 7, D), normal(1, 7, V), jnp.abs(normal(2, 7)).at[3].set(0), normal(3, M, D)
    dual = y @ x.T @ kan.fit_dual(x @ x.T, w, w[:, None] * f, 0.2)
    np.testing.assert_allclose(dual, y @ kan.fit_primal(x, f, w, 0.2), atol=1e-10)


def test_a_batch_of_tasks_is_the_tasks_one_by_one():
    x, f, w = (a.astype(jnp.float32) for a in (normal(0, B, 9, D), normal(1, B, 9, V), jnp.abs(normal(2, B, 9))))
    batch = jax.jit(jax.vmap(lambda x, f, w: kan.fit_primal(x, f, w, 0.1)))(x, f, w)
    for task in range(B):
        np.testing.assert_allclose(batch[task], ridge_regression(x[task], f[task], w[task], 0.1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_cells_are_summed_and_solved_in_float32(dtype):
    x, f = (normal(s, 900, d).astype(dtype) for s, d in ((0, 8), (1, V)))
    got = kan.fit_primal(x, f, jnp.ones(900, dtype), jnp.asarray(0.5, dtype))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, ridge_regression(x, f, np.ones(900), 0.5), atol=1e-5)


def degenerate(name):
    x = normal(0, 40, 6).astype(jnp.float32)
    return {
        "all zero": jnp.zeros_like(x),
        "one cell repeated": jnp.broadcast_to(x[:1], x.shape),
        "columns repeated": jnp.concatenate([x[:, :3], x[:, :3]], 1),
        "columns of zeros": x.at[:, 2:4].set(0),
        "scales apart": x * jnp.array([1e-4, 1e-2, 1, 1e2, 1e3, 1e4]),
    }[name]


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 0.1])
@pytest.mark.parametrize(
    "name", ["all zero", "one cell repeated", "columns repeated", "columns of zeros", "scales apart"]
)
def test_degenerate_features_are_fitted_in_float32_without_a_ridge_and_with_one(name, ridge):
    x = degenerate(name)
    f = x @ jnp.ones((6, V)) / (1 + jnp.abs(x).max())  # values that the features explain
    w = jnp.ones(40)

    def fitted(x):
        return x @ kan.fit_primal(x, f, w, ridge)

    exact = np.asarray(x, np.float64) @ (np.linalg.pinv(np.asarray(x, np.float64)) @ np.asarray(f, np.float64))
    if ridge < 0.1:
        np.testing.assert_allclose(fitted(x), exact, atol=2e-4)
    gradient = jax.grad(lambda x: jnp.sum(fitted(x) ** 2))(x)
    assert bool(jnp.isfinite(gradient).all())
    coefficients = kan.fit_dual(kan.rbf(x, x, 1.0), w, f, ridge)
    assert bool(jnp.isfinite(coefficients).all())


def test_a_task_without_known_cells_has_finite_values_and_gradients():
    def total(x, f, w):
        primal = kan.fit_primal(x, f, w, 0.1)
        dual = kan.fit_dual(kan.rbf(x, x, 1.0), w, w[:, None] * f, 0.0)
        return jnp.sum(primal**2) + jnp.sum(dual**2) + jnp.sum(kan.smooth(x @ x.T, f, w) ** 2)

    args = (normal(0, 6, D).astype(jnp.float32), normal(1, 6, V).astype(jnp.float32), jnp.zeros(6))
    assert float(total(*args)) == 0
    for gradient in jax.grad(total, (0, 1, 2))(*args):
        assert bool(jnp.isfinite(gradient).all())


def test_gradients_of_every_form_are_those_of_finite_differences(float64):
    x, f, w = normal(0, P, N, D), normal(1, P, N, V), 0.5 + jnp.abs(normal(2, P, N))

    def primal(x, f, w, ridge):
        return kan.leave_one_out_primal(x, f, w, ridge)

    def blocks(x, f, w, ridge):
        flat = x.reshape(-1, D)
        return kan.leave_one_out_blocks(kan.rbf(flat, flat, 1.0).reshape(P, N, P, N), f, w, ridge)

    def dual(x, f, w, ridge):
        return kan.extend(x[0], f[0], w[0], x[1], ridge) + kan.extend(x[0, :2], f[0, :2], w[0, :2], x[1], ridge)

    for form in (primal, blocks, dual):
        check_grads(jax.jit(form), (x, f, w, jnp.array(0.4)), order=1, modes=["rev"])


def refits(x, f, w, ridge, kernel):
    """Values of every group from a fit to the cells of the others, one group at a time."""
    out = []
    for i in range(P):
        others = np.delete(np.arange(P), i)
        keys, values, weight = x[others].reshape(-1, D), f[others].reshape(-1, V), w[others].ravel()
        live = np.flatnonzero(np.array(weight) > 0)
        keys, values, weight = keys[live], values[live], weight[live]
        # (K + ridge W^-1)^-1 F: weighted kernel ridge regression without square roots
        system = np.array(kernel(keys, keys)) + ridge * np.diag(1 / np.array(weight))
        out.append(np.array(kernel(x[i], keys)) @ np.linalg.solve(system, np.array(values)))
    return np.stack(out)


@pytest.mark.parametrize("ridge", [1e-4, 0.3])
def test_leaving_a_group_out_in_closed_form_is_refitting_without_it(ridge, float64):
    x, f = normal(0, P, N, D), normal(1, P, N, V)
    w = (0.5 + jnp.abs(normal(2, P, N))).at[1, 3].set(0)
    gauss = lambda a, b: kan.rbf(a, b, 1.0)
    flat = x.reshape(-1, D)
    got = np.array(kan.leave_one_out_blocks(gauss(flat, flat).reshape(P, N, P, N), f, w, ridge))
    live = np.array(w) > 0
    np.testing.assert_allclose(got[live], refits(x, f, w, ridge, gauss)[live], atol=1e-8)
    assert (got[~live] == 0).all()
    linear = refits(x, f, w, ridge, lambda a, b: a @ b.T)
    np.testing.assert_allclose(kan.leave_one_out_primal(x, f, w, ridge), linear, atol=1e-7)


def test_several_ridges_at_once_are_the_ridges_one_by_one(float64):
    x, f, w, ridges = normal(0, P, N, D), normal(1, P, N, V), jnp.ones((P, N)), jnp.array([1e-3, 0.1, 3.0])
    at_once = jax.vmap(lambda ridge: kan.leave_one_out_primal(x, f, w, ridge))(ridges)
    for row, ridge in zip(at_once, ridges, strict=True):
        np.testing.assert_allclose(row, refits(x, f, w, float(ridge), lambda a, b: a @ b.T), atol=1e-8)


def test_other_demonstrations_of_another_size_leave_a_small_one_its_digits():
    """Subtracting the large group's Gram matrix from the total would leave nothing of the small one in float32."""
    x = jnp.stack([1e4 * normal(0, 8, D), normal(1, 8, D)]).astype(jnp.float32)
    f = normal(2, 2, 8, V).astype(jnp.float32)
    got = kan.leave_one_out_primal(x, f, jnp.ones((2, 8)), 1e-3)
    expected = np.asarray(x[0], np.float64) @ ridge_regression(x[1], f[1], np.ones(8), 1e-3)
    np.testing.assert_allclose(got[0], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_the_kernel_is_one_on_the_diagonal_and_narrow_kernels_tell_keys_apart():
    x = normal(0, N, D).astype(jnp.float32)
    kernel = kan.rbf(x, x, 1.0)
    square = np.square(np.asarray(x)[:, None] - np.asarray(x)[None]).sum(-1)
    np.testing.assert_allclose(kernel, np.exp(-square / 2), atol=1e-6)
    np.testing.assert_allclose(kan.rbf(x, x, 1e-2), np.eye(N), atol=1e-3)


def test_the_soft_extension_lies_below_the_left_one_and_ignores_masked_cells():
    f, distance = jnp.array([1.0, -50.0, 2.0]), jnp.abs(normal(0, 3, 4)).astype(jnp.float32)
    mask = jnp.array([1.0, 0.0, 1.0])
    soft = metric.soft_left(f, distance, 0.1, mask)
    left = metric.left(f, distance, mask)
    assert bool((soft <= left + 1e-6).all())
    np.testing.assert_allclose(soft, left, atol=0.1 * np.log(2) + 1e-6)
    gradient = jax.grad(lambda f: jnp.sum(metric.soft_left(f, distance, 0.1, mask)))(f)
    np.testing.assert_allclose(gradient.sum(), 4, rtol=1e-5)
    assert float(gradient[1]) == 0
    assert bool((metric.soft_left(f, distance, 0.1, 0 * mask) == jnp.inf).all())
    nothing = jax.grad(lambda f: jnp.sum(jnp.exp(-metric.soft_left(f, distance, 0.1, 0 * mask))))(f)
    assert bool(jnp.isfinite(nothing).all())


def test_every_lipschitz_extension_lies_between_the_right_and_the_left_one(float64):
    """The universal property: g is 1-Lipschitz and agrees with f on the known cells, so Ran f <= g <= Lan f."""
    points = normal(0, 12, 2)
    distance = jnp.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    for seed in range(5):
        g = metric.left(normal(seed, 12), distance)  # the extension of anything along the identity is 1-Lipschitz
        assert bool((jnp.abs(g[:, None] - g[None]) <= distance + 1e-12).all())
        f = g[:4]
        assert bool((metric.right(f, distance[:, :4]) <= g + 1e-12).all())
        assert bool((g <= metric.left(f, distance[:4]) + 1e-12).all())


def test_restriction_has_the_two_extensions_as_its_adjoints(float64):
    """Between 1-Lipschitz functions: g <= Lan f exactly if g u <= f, and Ran f <= g exactly if f <= g u."""
    points = normal(1, 7, 2)
    distance = jnp.sqrt(((points[:, None] - points[None]) ** 2).sum(-1))
    seen = set()
    for seed in range(6):
        f = metric.left(normal(seed, 3), distance[:3, :3])
        for height in (-2.0, -0.3, 0.0, 0.3, 2.0):
            g = metric.left(normal(seed + 50, 7), distance) + height
            above = bool((g[:3] <= f).all()), bool((f <= g[:3]).all())
            seen |= set(zip(("left", "right"), above, strict=True))
            assert bool((g <= metric.left(f, distance[:3]) + 1e-12).all()) == above[0]
            assert bool((metric.right(f, distance[:, :3]) <= g + 1e-12).all()) == above[1]
    assert len(seen) == 4  # both sides were true sometimes and false sometimes
