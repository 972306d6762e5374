"""Laws of the extensions, in float64: restriction, identity, composition, naturality, duality, leave-one-out."""

import itertools

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np
import pytest

from jaxsrc.modules import kan_extension as kan
from jaxsrc.modules import metric_extension as metric
from jaxsrc.modules.linear_solve import eliminate, solve_spd

N, M, D, V = 9, 5, 4, 3


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(params=range(3))
def rng(request):
    return np.random.default_rng(request.param)


def points(rng, n):
    return jnp.array(rng.normal(size=(n, D)))


def dual(x, values, y, ridge=0.0):
    return kan.rbf(y, x, 1.0) @ kan.fit_dual(kan.rbf(x, x, 1.0), jnp.ones(len(x)), values, ridge)


def test_restriction_to_the_known_cells_is_the_identity_as_the_ridge_vanishes(rng):
    x, f = points(rng, N), jnp.array(rng.normal(size=(N, V)))
    np.testing.assert_allclose(dual(x, f, x), f, atol=1e-9)
    errors = [float(jnp.abs(dual(x, f, x, r) - f).max()) for r in (1e-1, 1e-3, 1e-5)]
    assert errors[0] > errors[1] > errors[2]


def test_extension_in_two_hops_is_extension_in_one(rng):
    x, more, y = points(rng, N), points(rng, 4), points(rng, M)
    f = jnp.array(rng.normal(size=(N, V)))
    middle = jnp.concatenate([x, more])
    np.testing.assert_allclose(dual(middle, dual(x, f, middle), y), dual(x, f, y), atol=1e-8)


def test_naturality_in_the_values_and_invariance_to_order(rng):
    x, y, f = points(rng, N), points(rng, M), jnp.array(rng.normal(size=(N, V)))
    a, order = jnp.array(rng.normal(size=(V, 2))), rng.permutation(N)
    for ridge in (0.0, 0.3):
        np.testing.assert_allclose(dual(x, f @ a, y, ridge), dual(x, f, y, ridge) @ a, atol=1e-9)
        np.testing.assert_allclose(dual(x[order], f[order], y, ridge), dual(x, f, y, ridge), atol=1e-9)


@pytest.mark.parametrize("n", [2, 9])
def test_primal_and_dual_agree_and_masked_cells_take_no_part(rng, n):
    x, y, f = points(rng, n), points(rng, M), jnp.array(rng.normal(size=(n, V)))
    weight = jnp.array(rng.integers(0, 3, n), float).at[0].set(1.0)
    primal = y @ kan.fit_primal(x, f, weight, 0.2)
    np.testing.assert_allclose(kan.extend(x, f, weight, y, 0.2), primal, atol=1e-9)
    noisy = jnp.where(weight[:, None] > 0, f, 99.0)
    np.testing.assert_allclose(kan.extend(x, noisy, weight, y, 0.2), primal, atol=1e-9)
    repeated = np.repeat(np.arange(n), np.array(weight, int))
    np.testing.assert_allclose(kan.extend(x[repeated], f[repeated], jnp.ones(len(repeated)), y, 0.2), primal, atol=1e-9)


def test_keys_with_counts_stand_for_their_cells(rng):
    keys, counts = points(rng, N), rng.integers(1, 4, N)
    cell = np.repeat(np.arange(N), counts)
    f = jnp.array(rng.normal(size=(len(cell), V)))
    total = jnp.zeros((N, V)).at[cell].add(f)
    kernel = kan.rbf(keys, keys, 1.0)
    short = kernel @ kan.fit_dual(kernel, jnp.array(counts, float), total, 0.5)
    np.testing.assert_allclose(short[cell], dual(keys[cell], f, keys[cell], 0.5), atol=1e-9)


def test_leave_one_group_out_equals_refitting(rng):
    p, n = 3, 4
    x, f = jnp.array(rng.normal(size=(p, n, D))), jnp.array(rng.normal(size=(p, n, V)))
    weight = jnp.ones((p, n)).at[1, 3].set(0.0)
    primal = kan.leave_one_out_primal(x, f, weight, 0.3)
    flat, values = x.reshape(-1, D), f.reshape(-1, V)
    kernel = kan.rbf(flat, flat, 1.0)
    member = jnp.repeat(jnp.eye(p), n, axis=1) * weight.reshape(-1)
    from_dual = kan.leave_one_out_dual(kernel, member, member[..., None] * values, 0.3)
    for i in range(p):
        others = np.array([j for j in range(p) if j != i])
        refit = x[i] @ kan.fit_primal(x[others].reshape(-1, D), f[others].reshape(-1, V), weight[others].ravel(), 0.3)
        np.testing.assert_allclose(primal[i], refit, atol=1e-9)
        keep = np.flatnonzero((np.arange(p * n) // n != i) & (np.array(weight).ravel() > 0))
        again = dual(flat[keep], values[keep], flat, 0.3)
        np.testing.assert_allclose(from_dual[i], again, atol=1e-9)
        if i != 1:
            block = (jnp.arange(p * n) // n == i).astype(float)
            live = np.flatnonzero(np.array(weight).ravel() > 0)
            single = kan.leave_block_out(kernel[live][:, live], values[live], block[live], 0.3)
            inside = np.array(block)[live] > 0
            np.testing.assert_allclose(np.array(single)[inside], np.array(again)[live][inside], atol=1e-8)


def test_smoothing_is_a_convex_combination_and_does_not_restrict(rng):
    x, f = points(rng, N), jnp.array(rng.normal(size=(N, V)))
    mask = jnp.ones(N).at[2].set(0)
    out = kan.smooth(-((x[:M, None] - x[None]) ** 2).sum(-1), f, mask)
    known = f[np.array(mask) > 0]
    assert bool((out <= known.max(0) + 1e-12).all() and (out >= known.min(0) - 1e-12).all())
    assert float(jnp.abs(kan.smooth(-((x[:, None] - x[None]) ** 2).sum(-1), f, jnp.ones(N)) - f).max()) > 1e-2


def distances(x, y):
    return jnp.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


def test_metric_extensions_restrict_bracket_and_compose(rng):
    x, more, y = points(rng, N), points(rng, 4), points(rng, M)
    anchor = jnp.array(rng.normal(size=D))
    truth = lambda z: jnp.sqrt(((z - anchor) ** 2).sum(-1))  # 1-Lipschitz
    f = truth(x)
    left, right = metric.left(f, distances(x, y)), metric.right(f, distances(y, x))
    assert bool((right <= truth(y) + 1e-12).all() and (truth(y) <= left + 1e-12).all())
    np.testing.assert_allclose(metric.left(f, distances(x, x)), f, atol=1e-12)
    np.testing.assert_allclose(metric.right(f, distances(x, x)), f, atol=1e-12)
    middle = jnp.concatenate([x, more])
    np.testing.assert_allclose(metric.left(metric.left(f, distances(x, middle)), distances(middle, y)), left, atol=1e-12)
    np.testing.assert_allclose(right, -metric.left(-f, distances(y, x).T), atol=1e-12)
    hidden = metric.left(f.at[0].set(-99.0), distances(x, y), jnp.ones(N).at[0].set(0))
    np.testing.assert_allclose(hidden, metric.left(f[1:], distances(x[1:], y)), atol=1e-12)


def test_the_soft_minimum_tends_to_the_left_extension(rng):
    x, y, f = points(rng, N), points(rng, M), jnp.array(rng.normal(size=N))
    left = metric.left(f, distances(x, y))
    errors = [float(jnp.abs(metric.soft_left(f, distances(x, y), t) - left).max()) for t in (1.0, 0.1, 0.01)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03


def test_triangle_identities_of_the_left_extension_and_restriction_along_a_poset_map():
    """u_! -| u^* between functions on finite posets with values in a chain: Lan is left adjoint to restriction."""
    source = {(a, b) for a, b in itertools.product(range(3), repeat=2) if a <= b}  # 0 < 1 < 2
    target = {(a, b) for a, b in itertools.product(range(4), repeat=2) if a <= b}  # 0 < 1 < 2 < 3
    u = [0, 2, 3]
    cost = jnp.array([[0.0 if (u[a], b) in target else jnp.inf for b in range(4)] for a in range(3)])
    lan = lambda f: metric.left(f, cost)
    restrict = lambda g: g[jnp.array(u)]
    monotone = lambda f, order: all(f[a] >= f[b] for a, b in order)
    chain = (0.0, 1.0, 2.0)
    for values in itertools.product(chain, repeat=3):
        f = jnp.array(values)
        if not monotone(values, source):
            continue
        np.testing.assert_array_equal(lan(restrict(lan(f))), lan(f))  # u_! eta then epsilon u_! is the identity
        np.testing.assert_array_equal(restrict(lan(f)), f)  # u is fully faithful: the unit is an isomorphism
        for g in itertools.product(chain, repeat=4):
            if monotone(g, target):
                g = jnp.array(g)
                assert bool((lan(f) >= g).all()) == bool((f >= restrict(g)).all())


def test_solver_gradients_and_the_portable_elimination(rng):
    a = rng.normal(size=(6, 6))
    a, b = jnp.array(a @ a.T + np.eye(6)), jnp.array(rng.normal(size=(6, 2)))
    np.testing.assert_allclose(solve_spd(a, b), np.linalg.solve(a, b), atol=1e-9)
    np.testing.assert_allclose(eliminate(a, b), np.linalg.solve(a, b), atol=1e-9)
    loss = jax.jit(lambda a, b: jnp.sum(jnp.sin(solve_spd((a + a.T) / 2, b))))
    jax.test_util.check_grads(loss, (a + jnp.eye(6), b), order=1, modes=["rev"])  # finite differences want it well posed


def test_float32_stays_close_on_badly_scaled_systems_and_degenerate_features_have_finite_gradients(rng):
    scale = 10.0 ** rng.uniform(-3, 3, 8)
    a = rng.normal(size=(8, 8))
    a = (a @ a.T + np.eye(8)) * scale[:, None] * scale[None]
    b = rng.normal(size=(8, 2)) * scale[:, None]
    x = np.array(solve_spd(jnp.array(a, jnp.float32), jnp.array(b, jnp.float32)), float)
    exact = np.linalg.solve(a, b)
    assert np.abs((x - exact) * scale[:, None]).max() < 1e-4 * np.abs(exact * scale[:, None]).max()
    for features in (jnp.zeros((N, D)), jnp.ones((N, D))):
        fit = lambda f: jnp.sum(kan.fit_primal(f, jnp.ones((N, V)), jnp.ones(N), 0.1) ** 2)
        assert bool(jnp.isfinite(jax.grad(fit)(features)).all())
        batched = jax.jit(jax.vmap(fit))(jnp.stack([features, features]))
        assert bool(jnp.isfinite(batched).all())
