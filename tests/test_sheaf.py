"""The grid sheaf in use: any size, batch, precision and dihedral view; limits of heat flow without running it."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsrc.modules import harmonic, sheaf
from jaxsrc.modules.long_range import flat_diffusion, flat_edges
from jaxsrc.modules.norm import rms_norm
from jaxsrc.modules.sheaf import EdgeMaps, GridSheaf, edge_masks

H, W, D, C, CONTENT = 4, 5, 3, 2, 4
KINDS = ("diagonal", "orthogonal", "general")


@pytest.fixture
def float64():
    with jax.enable_x64(True):
        yield


def normal(seed, *shape):
    return jnp.array(np.random.default_rng(seed).normal(size=shape))


def weights(kind, tied=False):
    """Kernel and bias of maps from content; tied: both axes read them alike."""
    size = sheaf.map_parameters(kind, D)
    kernel, bias = 0.5 * normal(0, 2 * CONTENT, size), 0.1 * normal(1, size)
    if tied:
        return jnp.tile(kernel, (1, 2)), jnp.tile(bias, 2)
    return jnp.concatenate([kernel, 0.5 * normal(2, 2 * CONTENT, size)], 1), jnp.concatenate([bias, bias])


def diffused(kind, y, mask, x, tied=False):
    kernel, bias = (t.astype(y.dtype) for t in weights(kind, tied))
    maps = sheaf.content_maps(y, mask, kernel, bias, kind=kind, stalk=D)
    return sheaf.normalized_laplacian(maps, x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_grid_on_a_larger_canvas_is_treated_as_on_its_own(kind, float64):
    y, x = normal(3, H, W, CONTENT), normal(4, H, W, D, C)
    on_canvas = lambda t, fill: jnp.full((7, 9, *t.shape[2:]), fill, t.dtype).at[:H, :W].set(t)
    mask = jnp.zeros((7, 9)).at[:H, :W].set(1)
    small, energy = diffused(kind, y, jnp.ones((H, W)), x)
    large, same_energy = diffused(kind, on_canvas(y, 5.0), mask, on_canvas(x, -3.0))
    np.testing.assert_allclose(large[:H, :W], small, atol=1e-12)
    np.testing.assert_allclose(energy, same_energy, rtol=1e-12)
    assert float(jnp.abs(large[H:]).max()) == 0


DIHEDRAL = [(turns, flip) for turns in range(4) for flip in (False, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_diffusion_commutes_with_all_eight_dihedral_maps_when_the_axes_are_tied(kind, float64):
    y, x, mask = normal(3, H, W, CONTENT), normal(4, H, W, D, C), jnp.ones((H, W)).at[0, 1].set(0).at[2, 4].set(0)
    out, energy = diffused(kind, y, mask, x, tied=True)
    for turns, flip in DIHEDRAL:
        view = lambda t, turns=turns, flip=flip: jnp.rot90(t[::-1] if flip else t, turns)
        seen, same_energy = diffused(kind, view(y), view(mask), view(x), tied=True)
        np.testing.assert_allclose(seen, view(out), atol=1e-12)
        np.testing.assert_allclose(same_energy, energy, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_leading_axes_and_vmap_are_the_grids_one_by_one(kind):
    y, x = (normal(s, 2, 3, H, W, *t).astype(jnp.float32) for s, t in ((3, (CONTENT,)), (4, (D, C))))
    mask = (normal(5, 2, 3, H, W) > -1).astype(jnp.float32)
    kernel, bias = (t.astype(jnp.float32) for t in weights(kind))
    maps = sheaf.content_maps(y, mask, kernel, bias, kind=kind, stalk=D)
    whole, energies = jax.jit(sheaf.laplacian)(maps, x), sheaf.dirichlet_energy(maps, x)
    mapped = jax.vmap(jax.vmap(sheaf.laplacian))(maps, x)
    np.testing.assert_allclose(whole, mapped, atol=1e-5)
    assert energies.shape == (2, 3)
    one = jax.tree.map(lambda t: t[1, 2], maps)
    assert one.kind == kind
    np.testing.assert_allclose(sheaf.laplacian(one, x[1, 2]), whole[1, 2], atol=1e-5)
    np.testing.assert_allclose(sheaf.dirichlet_energy(one, x[1, 2]), energies[1, 2], rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_half_and_its_energy_is_summed_in_float32(kind):
    y, x, mask = (normal(s, 30, 30, *t).astype(jnp.float32) for s, t in ((3, (CONTENT,)), (4, (D, C)), (5, ())))
    exact, energy = diffused(kind, y, jnp.ones_like(mask), x)
    half = lambda t: t.astype(jnp.bfloat16)
    out, rough = diffused(kind, half(y), half(jnp.ones_like(mask)), half(x))
    assert (out.dtype, rough.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_allclose(rough, energy, rtol=2e-2)
    assert float(jnp.linalg.norm(out.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_forward_and_gradient_need_no_gather_and_no_scatter(kind):
    y, x, mask = jnp.ones((2, H, W, CONTENT)), jnp.ones((2, H, W, D, C)), jnp.ones((2, H, W))
    colors = jnp.ones((2, H, W), jnp.int32)

    def loss(y, x, kernel, bias):
        maps = sheaf.content_maps(y, mask, kernel, bias, kind=kind, stalk=D)
        out, energy = sheaf.normalized_laplacian(maps, sheaf.diffusion_step(maps, x, jnp.eye(D), jnp.eye(C)))
        filled = harmonic.harmonic_extension(maps, out, mask * colors, 1 - mask, 3)
        flat = flat_edges(colors, mask)
        return energy + jnp.sum(filled) + jnp.sum(harmonic.component_average(flat_diffusion(y, flat, 1), flat, 1))

    text = jax.jit(jax.grad(loss, (0, 1, 2, 3))).lower(y, x, *weights(kind)).as_text()
    assert "stablehlo.dot_general" in text  # the pattern below would see the rest
    assert set(re.findall(r"stablehlo\.(\w*(?:gather|scatter)\w*)", text)) == set()


def test_one_diffusion_step_is_what_the_equation_says(float64):
    y, x, mask = normal(3, H, W, CONTENT), normal(4, H, W, D, C), jnp.ones((H, W))
    maps = sheaf.content_maps(y, mask, *weights("general"), kind="general", stalk=D)
    w1, w2 = normal(5, D, D), normal(6, C, C)
    mixed = jnp.stack([jnp.stack([w1 @ x[i, j] @ w2 for j in range(W)]) for i in range(H)])
    expected = x - jnp.tanh(sheaf.normalized_laplacian(maps, mixed)[0])
    np.testing.assert_allclose(sheaf.diffusion_step(maps, x, w1, w2, jnp.tanh), expected, atol=1e-12)


def flat_bundle():
    """An orthogonal bundle without holonomy (its sections are turned frames of a constant one), and those frames."""
    frames = jnp.linalg.qr(normal(7, H, W, D, D))[0]
    down, right = edge_masks(jnp.ones((H, W)))
    ahead = lambda axis: jnp.roll(frames, -1, axis)
    return GridSheaf(EdgeMaps(frames, ahead(0), down), EdgeMaps(frames, ahead(1), right), "general"), frames


def test_steps_of_heat_flow_tend_to_the_projection_onto_the_global_sections(float64):
    maps, frames = flat_bundle()
    x = normal(8, H, W, D, C)
    late = jax.lax.fori_loop(0, 2000, lambda _, x: x - 0.2 * sheaf.laplacian(maps, x), x)
    mean = jnp.einsum("hwed,hwdc->ec", frames, x) / (H * W)
    np.testing.assert_allclose(late, jnp.einsum("hwed,ec->hwdc", frames, mean), atol=1e-10)
    assert float(sheaf.dirichlet_energy(maps, late)) < 1e-20


def test_every_component_of_the_mask_has_its_own_constant_sections(float64):
    mask = jnp.ones((H, W)).at[:, 2].set(0).at[0, 3].set(0)
    one = jnp.ones((H, W, D))
    maps = GridSheaf(*(EdgeMaps(one, one, valid) for valid in edge_masks(mask)), "diagonal")
    n = H * W * D
    dense = jax.vmap(lambda x: sheaf.laplacian(maps, x).ravel())(jnp.eye(n).reshape(n, H, W, D, 1))
    live = np.repeat(np.array(mask).ravel() > 0, D)
    values = np.linalg.eigvalsh(np.array(dense)[np.ix_(live, live)])
    assert int((values < 1e-10).sum()) == 2 * D  # two halves of the grid


def test_reflections_are_orthogonal_for_short_and_zero_vectors_and_have_finite_gradients():
    x = normal(9, 4, D, C).astype(jnp.float32)
    for size in (0.0, 1e-30, 1e-12, 1e-7, 1e-5, 1.0, 1e15):
        v = (size * normal(10, 4, 2, D)).astype(jnp.float32)
        y = sheaf.reflect(v, x)
        np.testing.assert_allclose(jnp.sum(y**2, -2), jnp.sum(x**2, -2), rtol=1e-5)
        np.testing.assert_allclose(sheaf.corestrict("orthogonal", v, y), x, atol=1e-5)
        assert bool(jnp.isfinite(jax.grad(lambda v: jnp.sum(sheaf.reflect(v, x) ** 3))(v)).all())


def test_the_inverse_square_root_never_overshoots_and_has_converged_after_the_stated_iterations(float64):
    turn = jnp.linalg.qr(normal(11, D, D))[0]
    for condition, iterations in ((1e2, 16), (1e4, 16), (1e9, 30)):
        a = turn @ jnp.diag(jnp.array([1.0, condition**-0.5, 1 / condition])) @ turn.T
        exact = turn @ jnp.diag(jnp.array([1.0, condition**0.25, condition**0.5])) @ turn.T
        for early in (1, 4, 8):
            gap = exact - sheaf.inverse_square_root(a, early)
            assert float(jnp.linalg.eigvalsh((gap + gap.T) / 2).min()) > -1e-9 * condition**0.5
        got = sheaf.inverse_square_root(a, iterations)
        np.testing.assert_allclose(got, exact, atol=1e-3 * condition**0.5)


def test_the_harmonic_extension_has_the_gradient_of_the_dense_solve(float64):
    maps, _ = flat_bundle()
    pinned = jnp.zeros((H, W)).at[0, 0].set(1).at[3, 2].set(1)
    free = 1 - pinned
    n = H * W * D
    u = np.repeat(np.array(free).ravel() > 0, D)
    x, goal = normal(12, H, W, D, 1), normal(13, H, W, D, 1)

    def dense(maps, x):
        apply = lambda f: sheaf.laplacian(maps, f).ravel()
        matrix = jax.vmap(apply)(jnp.eye(n).reshape(n, H, W, D, 1))
        fill = -jnp.linalg.solve(matrix[u][:, u], matrix[u][:, ~u] @ x.ravel()[~u])
        return jnp.zeros(n).at[np.flatnonzero(u)].set(fill).at[np.flatnonzero(~u)].set(x.ravel()[~u]).reshape(x.shape)

    def error(extend):
        return lambda maps, x: jnp.sum((extend(maps, x) - goal) ** 2)

    fast = error(lambda maps, x: harmonic.harmonic_extension(maps, x, pinned, free, 80))
    got, expected = (jax.jit(jax.grad(f, (0, 1)))(maps, x) for f in (fast, error(dense)))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-8)


def test_the_harmonic_extension_is_left_alone_once_it_has_converged_and_where_nothing_is_pinned():
    one = jnp.ones((H, W, D))
    mask = jnp.ones((H, W)).at[:, 2].set(0)  # the right part has no pinned cell: L_UU is singular there
    maps = GridSheaf(*(EdgeMaps(one, one, valid) for valid in edge_masks(mask)), "diagonal")
    pinned = jnp.zeros((H, W)).at[0, 0].set(1)
    x = normal(12, H, W, D, C).astype(jnp.float32)

    def fill(x):
        return harmonic.harmonic_extension(maps, x, pinned, mask - pinned, 400)

    y = fill(x)
    np.testing.assert_allclose(y[:, :2], jnp.broadcast_to(x[0, 0], (H, 2, D, C)), atol=1e-5)
    assert float(jnp.abs(y[:, 2:]).max()) == 0
    gradient = jax.grad(lambda x: jnp.sum(jnp.sin(fill(x)) + fill(x) ** 2))(x)
    np.testing.assert_allclose(gradient[0, 0], 2 * H * (jnp.cos(x[0, 0]) + 2 * x[0, 0]), rtol=1e-4)
    assert float(jnp.abs(gradient.at[0, 0].set(0)).max()) == 0


def components(colors, mask):
    """Cells of every 4-connected component of one colour, by flood fill."""
    left = {(i, j) for i, j in itertools.product(*map(range, colors.shape)) if mask[i, j]}
    found = []
    while left:
        stack, cells = [left.pop()], []
        while stack:
            i, j = stack.pop()
            cells.append((i, j))
            for n in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if n in left and colors[n] == colors[i, j]:
                    left.remove(n)
                    stack.append(n)
        found.append(tuple(np.array(cells).T))
    return found


SPIRAL = ["xxxxx", "....x", "xxx.x", "x...x", "xxxxx"]


def test_the_component_average_is_the_mean_of_the_component_and_conserves_its_sum(float64):
    rng = np.random.default_rng(14)
    spiral = np.array([[c == "x" for c in row] for row in SPIRAL]).astype(int)
    for colors in (rng.integers(0, 3, (6, 7)), spiral):
        mask = np.ones(colors.shape)
        mask[-1, -1] = 0
        flat = flat_edges(jnp.array(colors), jnp.array(mask))
        y = normal(15, *colors.shape, 2)
        few, many = harmonic.component_average(y, flat, 1), harmonic.component_average(y, flat, 200)
        for cells in components(colors, mask):
            np.testing.assert_allclose(few[cells].sum(0), y[cells].sum(0), atol=1e-12)
            np.testing.assert_allclose(many[cells], np.broadcast_to(y[cells].mean(0), many[cells].shape), atol=1e-10)
        assert float(jnp.abs(many[-1, -1] - y[-1, -1]).max()) == 0


def test_the_component_average_has_no_energy_on_the_flat_sheaf_and_rectangles_take_one_sweep(float64):
    colors = jnp.array(np.kron(np.arange(6).reshape(2, 3), np.ones((3, 2), int)))
    flat = flat_edges(colors, jnp.ones(colors.shape))
    one = jnp.ones((*colors.shape, 2))
    maps = GridSheaf(EdgeMaps(one, one, flat.down), EdgeMaps(one, one, flat.right), "diagonal")
    y = harmonic.component_average(normal(16, *colors.shape, 2), flat, 1)
    assert float(sheaf.dirichlet_energy(maps, y[..., None])) < 1e-28


def test_run_means_are_an_orthogonal_projection(float64):
    edge = (normal(17, 2, H, W) > 0).astype(float)
    for axis in sheaf.AXES:
        last = edge.at[:, -1].set(0) if axis == -2 else edge.at[:, :, -1].set(0)
        run = lambda y, last=last, axis=axis: harmonic.run_means(y, last, axis)
        a, b = normal(18, 2, H, W, 1), normal(19, 2, H, W, 1)
        np.testing.assert_allclose(run(run(a)), run(a), atol=1e-12)
        np.testing.assert_allclose(jnp.sum(run(a) * b), jnp.sum(a * run(b)), atol=1e-12)


def test_the_norm_leaves_zero_rows_at_zero_with_a_finite_gradient_and_keeps_the_type():
    x = normal(20, 3, 64).astype(jnp.float32).at[1].set(0)
    y = rms_norm(x)
    np.testing.assert_allclose(jnp.mean(y**2, -1), [1, 0, 1], atol=1e-4)
    assert bool(jnp.isfinite(jax.grad(lambda x: jnp.sum(rms_norm(x) ** 3))(x)).all())
    half = rms_norm((300 * x).astype(jnp.float16), jnp.full(64, 2.0, jnp.float16))  # squares that float16 cannot hold
    assert half.dtype == jnp.float16
    np.testing.assert_allclose(half, 2 * y, atol=2e-2)
