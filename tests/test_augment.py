"""Views: the dihedral group's laws on canvases, exact inverses, and agreement with NumPy on single grids."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsrc.data.arc import Pair, Task
from jaxsrc.data.arc_buckets import OUTSIDE, pad_episode
from jaxsrc.data.augment import (
    COMPOSED,
    DIHEDRALS,
    INVERSE,
    Canvas,
    View,
    augment_episode,
    compose,
    dihedral,
    inverse,
    random_view,
    recolor,
    turn,
    unview_grid,
    view_episode,
    view_grid,
    view_task,
    views,
)

SIDE = 7
turned = jax.jit(turn)


def grid(h, w, seed=0) -> np.ndarray:
    return np.random.default_rng((h, w, seed)).integers(0, 10, (h, w)).astype(np.uint8)


def canvas(cells):
    """Padding is numbered, -1 and below, so that a test sees where each padded cell went."""
    padded = -1 - np.arange(SIDE * SIDE, dtype=np.int8).reshape(SIDE, SIDE)
    padded[: cells.shape[0], : cells.shape[1]] = cells
    return Canvas(jnp.asarray(padded), jnp.array(cells.shape, jnp.int32))


def task(seed=0, hidden=False):
    pairs = [Pair(grid(2 + i, 5, seed), grid(4, 1 + i, seed)) for i in range(3)]
    return Task("a", "made", tuple(pairs), (Pair(grid(3, 6, seed), None if hidden else grid(7, 2, seed)),))


sides = st.integers(1, SIDE)
sizes = st.tuples(sides, sides)
maps = st.integers(0, DIHEDRALS - 1)
colorings = st.permutations(range(10)).map(np.array)


def test_the_eight_maps_differ_and_their_table_is_that_of_numpy():
    cells = np.arange(4).reshape(2, 2)
    seen = [dihedral(cells, which).tolist() for which in range(DIHEDRALS)]
    assert len({str(s) for s in seen}) == DIHEDRALS
    for a, b in itertools.product(range(DIHEDRALS), repeat=2):
        assert seen[COMPOSED[a, b]] == dihedral(dihedral(cells, b), a).tolist()


def test_group_laws():
    everything = np.arange(DIHEDRALS)
    assert (COMPOSED[0] == everything).all() and (COMPOSED[:, 0] == everything).all()
    assert (np.sort(COMPOSED, axis=0) == everything[:, None]).all() and (np.sort(COMPOSED, axis=1) == everything).all()
    assert (COMPOSED[everything, INVERSE] == 0).all() and (COMPOSED[INVERSE, everything] == 0).all()
    a, b, c = np.ix_(everything, everything, everything)
    assert (COMPOSED[COMPOSED[a, b], c] == COMPOSED[a, COMPOSED[b, c]]).all()
    assert (COMPOSED != COMPOSED.T).any()


@settings(max_examples=60, deadline=None)
@given(sizes, maps, st.integers(0, 9))
def test_a_canvas_turns_as_its_grid_does(size, which, seed):
    cells = grid(*size, seed=seed)
    out, expected = turned(canvas(cells), which), dihedral(cells, which)
    assert tuple(out.size.tolist()) == expected.shape
    np.testing.assert_array_equal(np.asarray(out.grid)[: expected.shape[0], : expected.shape[1]], expected)
    assert (np.asarray(out.grid) < 0).sum() == SIDE * SIDE - cells.size
    assert len(np.unique(out.grid)) == len(np.unique(canvas(cells).grid))
    assert out.grid.dtype == jnp.int8 and out.size.dtype == jnp.int32


@settings(max_examples=60, deadline=None)
@given(sizes, maps, maps)
def test_turning_twice_is_the_composed_map_and_the_inverse_undoes_padding_too(size, a, b):
    start = canvas(grid(*size))
    twice, once = turned(turned(start, b), a), turned(start, int(COMPOSED[a, b]))
    h, w = once.size.tolist()
    np.testing.assert_array_equal(twice.grid[:h, :w], once.grid[:h, :w])
    np.testing.assert_array_equal(twice.size, once.size)
    back = turned(turned(start, a), int(INVERSE[a]))
    np.testing.assert_array_equal(back.grid, start.grid)
    np.testing.assert_array_equal(back.size, start.size)


def test_an_absent_grid_stays_absent():
    for which in range(DIHEDRALS):
        out = turned(Canvas(jnp.full((SIDE, SIDE), OUTSIDE, jnp.int8), jnp.zeros(2, jnp.int32)), which)
        assert not out.size.any() and (out.grid == OUTSIDE).all()


@settings(max_examples=30, deadline=None)
@given(sizes, colorings)
def test_recolor_names_every_cell_anew_and_leaves_the_outside(size, permutation):
    start = canvas(grid(*size))
    out = recolor(start.grid, jnp.asarray(permutation))
    expected = np.where(start.grid < 0, start.grid, permutation[np.maximum(start.grid, 0)])
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(recolor(out, jnp.argsort(jnp.asarray(permutation))), start.grid)


@settings(max_examples=40, deadline=None)
@given(maps, colorings, maps, colorings, st.integers(0, 9))
def test_views_of_episodes_compose_and_invert(a, first, b, second, seed):
    episode = jax.tree.map(lambda x: x[0], pad_episode([task(seed)], SIDE, 4))
    before, after = View(np.array(a), first), View(np.array(b), second)
    seen = jax.jit(view_episode)
    same = lambda x, y: jax.tree.map(np.testing.assert_array_equal, x, y)
    same(seen(inverse(before), seen(before, episode)), episode)
    same(seen(after, seen(before, episode)), seen(compose(after, before), episode))


@settings(max_examples=40, deadline=None)
@given(sizes, maps, colorings)
def test_single_grids_invert_on_the_host(size, which, permutation):
    cells, view = grid(*size), View(np.array(which), permutation)
    there = view_grid(cells, view)
    assert there.dtype == cells.dtype and there.flags.c_contiguous
    np.testing.assert_array_equal(unview_grid(there, view), cells)
    np.testing.assert_array_equal(view_grid(unview_grid(cells, view), view), cells)
    undone = jax.tree.map(np.asarray, inverse(view))
    np.testing.assert_array_equal(view_grid(there, undone), cells)


@settings(max_examples=20, deadline=None)
@given(maps, colorings, st.booleans())
def test_viewing_on_the_device_is_viewing_on_the_host(which, permutation, hidden):
    view = View(np.array(which), permutation)
    on_host = pad_episode([view_task(task(hidden=hidden), view)], SIDE, 4)
    on_device = jax.jit(jax.vmap(view_episode, in_axes=(None, 0)))(view, pad_episode([task(hidden=hidden)], SIDE, 4))
    jax.tree.map(np.testing.assert_array_equal, on_host, on_device)


def test_augment_gives_each_task_one_view_and_all_of_them_in_time():
    batch = 256
    episode = pad_episode([task()] * batch, SIDE, 4)
    out = jax.jit(augment_episode)(jax.random.key(0), episode)
    assert jax.tree.map(lambda x: (x.shape, str(x.dtype)), out) == jax.tree.map(
        lambda x: (x.shape, str(x.dtype)), episode
    )
    np.testing.assert_array_equal(out.pair_mask, episode.pair_mask)
    keys = jax.random.split(jax.random.key(0), batch)
    drawn = jax.vmap(random_view)(keys)
    for i in range(0, batch, 16):
        view = View(np.asarray(drawn.dihedral[i]), np.asarray(drawn.permutation[i]))
        expected = pad_episode([view_task(task(), view)], SIDE, 4)
        jax.tree.map(lambda x, y, i=i: np.testing.assert_array_equal(x[i], y[0]), out, expected)
    assert set(drawn.dihedral.tolist()) == set(range(DIHEDRALS))
    assert len({tuple(p) for p in drawn.permutation.tolist()}) > 250


@pytest.mark.parametrize("black, zeros", [("fixed", {0}), ("free", set(range(10)))])
def test_black_keeps_its_name_only_if_fixed(black, zeros):
    drawn = jax.vmap(lambda key: random_view(key, black))(jax.random.split(jax.random.key(1), 256))
    assert set(drawn.permutation[:, 0].tolist()) == zeros
    assert set(drawn.permutation[:, 5].tolist()) == set(range(10)) - (zeros if black == "fixed" else set())
    assert (np.sort(drawn.permutation, axis=1) == np.arange(10)).all()


def test_views_enumerates_the_maps_under_each_coloring():
    assert [int(v.dihedral) for v in views()] == list(range(8))
    assert all((v.permutation == np.arange(10)).all() for v in views())
    many = views(4, seed=3)
    assert len(many) == 32 and len({(int(v.dihedral), tuple(v.permutation)) for v in many}) == 32
    assert all(v.permutation[0] == 0 and sorted(v.permutation) == list(range(10)) for v in many)
    same = views(4, seed=3)
    assert all((a.permutation == b.permutation).all() for a, b in zip(many, same, strict=True))
    assert any((a.permutation != b.permutation).any() for a, b in zip(many, views(4, seed=4), strict=True))
    assert any(v.permutation[0] for v in views(4, black="free"))
