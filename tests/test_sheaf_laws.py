"""Laws of the grid sheaf in float64, against dense matrices built from the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsrc.modules import sheaf
from jaxsrc.modules.harmonic import harmonic_extension
from jaxsrc.modules.long_range import flat_diffusion, flat_edges, means
from jaxsrc.modules.sheaf import EdgeMaps, GridSheaf, edge_masks

H, W, D, C = 3, 4, 3, 2
KINDS = ("diagonal", "orthogonal", "general")


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_sheaf(kind, seed=0, mask=None, h=H, w=W):
    rng = np.random.default_rng(seed)
    mask = np.ones((h, w)) if mask is None else mask
    shape = {"diagonal": (D,), "orthogonal": (2, D), "general": (D, D)}[kind]
    maps = [
        EdgeMaps(jnp.array(rng.normal(size=(h, w, *shape))), jnp.array(rng.normal(size=(h, w, *shape))), valid)
        for valid in edge_masks(jnp.array(mask, float))
    ]
    return GridSheaf(maps[0], maps[1], kind)


def identity_sheaf(h=H, w=W, mask=None):
    mask = jnp.ones((h, w)) if mask is None else jnp.array(mask, float)
    one = jnp.ones((h, w, D))
    down, right = edge_masks(mask)
    return GridSheaf(EdgeMaps(one, one, down), EdgeMaps(one, one, right), "diagonal")


def matrix(apply, h=H, w=W):
    """Dense matrix of a linear map on fields with one channel."""
    n = h * w * D
    columns = jax.jit(jax.vmap(apply))(jnp.eye(n).reshape(n, h, w, D, 1))
    return np.concatenate([np.reshape(p, (n, -1)) for p in jax.tree.leaves(columns)], 1).T


@pytest.mark.parametrize("kind", KINDS)
def test_laplacian_is_symmetric_positive_semidefinite_and_is_delta_transpose_delta(kind):
    s = random_sheaf(kind)
    laplacian = matrix(lambda x: sheaf.laplacian(s, x))
    delta = matrix(lambda x: sheaf.coboundary(s, x))
    np.testing.assert_allclose(laplacian, laplacian.T, atol=1e-12)
    np.testing.assert_allclose(laplacian, delta.T @ delta, atol=1e-12)
    assert np.linalg.eigvalsh(laplacian).min() > -1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_the_kernel_of_the_laplacian_is_the_global_sections(kind):
    s = random_sheaf(kind)
    laplacian, delta = matrix(lambda x: sheaf.laplacian(s, x)), matrix(lambda x: sheaf.coboundary(s, x))
    rank = lambda a: int((np.linalg.svd(a)[1] > 1e-9).sum())
    assert rank(laplacian) == rank(delta)
    null = np.linalg.svd(laplacian)[2][rank(laplacian) :]
    np.testing.assert_allclose(delta @ null.T, 0, atol=1e-9)


def test_identity_maps_give_the_graph_laplacian_and_constant_sections():
    laplacian = matrix(lambda x: sheaf.laplacian(identity_sheaf(), x))
    graph = np.zeros((H * W, H * W))
    for i in range(H * W):
        for j in range(H * W):
            (a, b), (c, d) = divmod(i, W), divmod(j, W)
            if abs(a - c) + abs(b - d) == 1:
                graph[i, j] = -1
                graph[i, i] += 1
    np.testing.assert_array_equal(laplacian, np.kron(graph, np.eye(D)))
    constant = jnp.broadcast_to(jnp.arange(1.0, D + 1)[:, None], (H, W, D, C))
    assert float(sheaf.dirichlet_energy(identity_sheaf(), constant)) == 0
    assert int((np.linalg.eigvalsh(laplacian) < 1e-9).sum()) == D


def test_a_flat_orthogonal_bundle_has_d_global_sections_and_a_random_one_has_none():
    rng = np.random.default_rng(1)
    frames = np.linalg.qr(rng.normal(size=(H, W, D, D)))[0]
    down, right = edge_masks(jnp.ones((H, W)))
    near = jnp.array(frames)
    far = [jnp.array(np.roll(frames, -1, axis)) for axis in (0, 1)]
    flat = GridSheaf(EdgeMaps(near, far[0], down), EdgeMaps(near, far[1], right), "general")
    zero = lambda s: int((np.linalg.eigvalsh(matrix(lambda x: sheaf.laplacian(s, x))) < 1e-9).sum())
    assert zero(flat) == D
    assert zero(random_sheaf("orthogonal")) == 0


def test_orthogonal_maps_preserve_length():
    rng = np.random.default_rng(2)
    x, v = jnp.array(rng.normal(size=(5, D, C))), jnp.array(rng.normal(size=(5, 3, D)))
    y = sheaf.reflect(v, x)
    np.testing.assert_allclose(jnp.sum(y**2, -2), jnp.sum(x**2, -2), rtol=1e-12)
    np.testing.assert_allclose(sheaf.corestrict("orthogonal", v, y), x, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_masked_cells_change_nothing(kind):
    mask = np.ones((H, W))
    mask[:, -1] = mask[1, 0] = 0
    s = random_sheaf(kind, mask=mask)
    rng = np.random.default_rng(3)
    x = jnp.array(rng.normal(size=(H, W, D, C)))
    other = jnp.where(jnp.array(mask)[..., None, None] > 0, x, 7.0)
    live = np.array(mask, bool)
    np.testing.assert_array_equal(sheaf.laplacian(s, x)[live], sheaf.laplacian(s, other)[live])
    assert float(sheaf.dirichlet_energy(s, x)) == float(sheaf.dirichlet_energy(s, other))


@pytest.mark.parametrize("kind", KINDS)
def test_the_normalised_laplacian_has_its_spectrum_in_zero_to_two(kind):
    s = random_sheaf(kind)
    values = np.linalg.eigvalsh(matrix(lambda x: sheaf.normalized_laplacian(s, x)[0]))
    assert values.min() > -1e-9
    assert values.max() < 2 + 1e-9


def test_the_inverse_square_root_agrees_with_the_eigendecomposition():
    rng = np.random.default_rng(4)
    a = rng.normal(size=(6, D, D))
    a = a @ a.swapaxes(-1, -2) + 1e-2 * np.eye(D)
    values, vectors = np.linalg.eigh(a)
    expected = np.einsum("bij,bj,bkj->bik", vectors, values**-0.5, vectors)
    np.testing.assert_allclose(sheaf.inverse_square_root(jnp.array(a), 30), expected, rtol=1e-6, atol=1e-8)


def test_heat_flow_projects_onto_the_global_sections():
    laplacian = matrix(lambda x: sheaf.laplacian(identity_sheaf(), x))
    x = np.random.default_rng(5).normal(size=(H * W * D,))
    values, vectors = np.linalg.eigh(laplacian)
    late = vectors @ (np.exp(-1e4 * values) * (vectors.T @ x))
    mean = np.broadcast_to(x.reshape(-1, D).mean(0), (H * W, D)).ravel()
    np.testing.assert_allclose(late, mean, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_content_maps_are_equivariant_under_transposition_when_the_axes_are_tied(kind):
    rng = np.random.default_rng(6)
    size = sheaf.map_parameters(kind, D)
    y = jnp.array(rng.normal(size=(H, W, 5)))
    kernel = jnp.tile(jnp.array(rng.normal(size=(10, size))), (1, 2))
    bias = jnp.tile(jnp.array(rng.normal(size=(size,))), 2)
    x = jnp.array(rng.normal(size=(H, W, D, C)))

    def run(y, x):
        maps = sheaf.content_maps(y, jnp.ones(y.shape[:2]), kernel, bias, kind=kind, stalk=D)
        return sheaf.normalized_laplacian(maps, x)[0]

    turned = run(y.swapaxes(0, 1), x.swapaxes(0, 1)).swapaxes(0, 1)
    np.testing.assert_allclose(run(y, x), turned, atol=1e-10)
    flipped = run(y[::-1, ::-1], x[::-1, ::-1])[::-1, ::-1]
    np.testing.assert_allclose(run(y, x), flipped, atol=1e-10)


def test_harmonic_extension_keeps_the_boundary_solves_the_system_and_composes():
    s = random_sheaf("general", seed=7)
    rng = np.random.default_rng(8)
    x = jnp.array(rng.normal(size=(H, W, D, 1)))
    pinned = np.zeros((H, W))
    pinned[0, 0] = pinned[2, 3] = pinned[1, 2] = 1
    free = 1 - pinned
    y = harmonic_extension(s, x, jnp.array(pinned), jnp.array(free), 200)
    np.testing.assert_array_equal(np.array(y)[pinned > 0], np.array(x)[pinned > 0])
    dense = matrix(lambda f: sheaf.laplacian(s, f))
    u = np.repeat(free.ravel() > 0, D)
    expected = -np.linalg.solve(dense[np.ix_(u, u)], dense[np.ix_(u, ~u)] @ np.ravel(x)[~u])
    np.testing.assert_allclose(np.ravel(y)[u], expected, atol=1e-7)
    more = np.minimum(pinned + (np.arange(W) == 1), 1)
    again = harmonic_extension(s, y, jnp.array(more), jnp.array(1 - more), 200)
    np.testing.assert_allclose(again, y, atol=1e-7)
    energy = float(sheaf.dirichlet_energy(s, y))
    for seed in range(3):
        bump = jnp.array(np.random.default_rng(seed).normal(size=y.shape)) * jnp.array(free)[..., None, None]
        assert float(sheaf.dirichlet_energy(s, y + 0.1 * bump)) > energy


def test_flat_diffusion_tends_to_the_mean_of_each_component():
    colors = jnp.array([[1, 1, 2, 2], [1, 3, 3, 2], [1, 1, 3, 2]])
    mask = jnp.ones((H, W))
    flat = flat_edges(colors, mask)
    advance = jax.jit(lambda y: flat_diffusion(y, flat, 20))
    y = jnp.array(np.random.default_rng(9).normal(size=(H, W, 2)))
    late = y
    for _ in range(60):
        late = advance(late)
    late = np.array(late)
    for color in (1, 2, 3):
        inside = late[np.array(colors) == color]
        np.testing.assert_allclose(inside, np.broadcast_to(inside[0], inside.shape), atol=1e-9)
    row, column, grid, _ = means(y, mask, flat)
    np.testing.assert_allclose(row[1, 2], y[1].mean(0))
    np.testing.assert_allclose(column[1, 2], y[:, 2].mean(0))
    np.testing.assert_allclose(grid[1, 2], y.mean((0, 1)))


def test_gradients_are_finite_where_degrees_and_stalks_vanish():
    mask = jnp.zeros((H, W)).at[0, 0].set(1.0)

    def energy(maps, x):
        s = GridSheaf(EdgeMaps(maps, maps, mask * 0), EdgeMaps(maps, maps, mask * 0), "diagonal")
        return jnp.sum(sheaf.normalized_laplacian(s, x)[0] ** 2)

    for g in jax.grad(energy, (0, 1))(jnp.zeros((H, W, D)), jnp.zeros((H, W, D, C))):
        assert bool(jnp.isfinite(g).all())
