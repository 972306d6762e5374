"""Views: the dihedral group's laws, and exact inverses."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsrc.data.arc import Pair, Task
from jaxsrc.data.augment import COMPOSED, DIHEDRALS, INVERSE, View, dihedral, unview_grid, view_grid, view_task, views

SIDE = 7


def grid(h, w, seed=0) -> np.ndarray:
    return np.random.default_rng((h, w, seed)).integers(0, 10, (h, w)).astype(np.uint8)


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


@settings(max_examples=40, deadline=None)
@given(sizes, maps, colorings)
def test_single_grids_invert_on_the_host(size, which, permutation):
    cells, view = grid(*size), View(which, permutation)
    there = view_grid(cells, view)
    assert there.dtype == cells.dtype and there.flags.c_contiguous
    np.testing.assert_array_equal(unview_grid(there, view), cells)
    np.testing.assert_array_equal(view_grid(unview_grid(cells, view), view), cells)


@settings(max_examples=20, deadline=None)
@given(maps, colorings, st.booleans())
def test_a_task_is_seen_in_one_view(which, permutation, hidden):
    start, view = task(hidden=hidden), View(which, permutation)
    seen = view_task(start, view)
    assert (seen.id, len(seen.train), len(seen.test)) == (start.id, len(start.train), len(start.test))
    for before, after in zip(start.pairs, seen.pairs, strict=True):
        np.testing.assert_array_equal(unview_grid(after.input, view), before.input)
        assert (after.output is None) == (before.output is None)
        if before.output is not None and after.output is not None:
            np.testing.assert_array_equal(after.output, view_grid(before.output, view))


def test_views_enumerates_the_maps_under_each_coloring():
    assert [v.dihedral for v in views()] == list(range(8))
    assert all((v.permutation == np.arange(10)).all() for v in views())
    many = views(4, seed=3)
    assert len(many) == 32 and len({(v.dihedral, tuple(v.permutation)) for v in many}) == 32
    assert all(v.permutation[0] == 0 and sorted(v.permutation) == list(range(10)) for v in many)
    same = views(4, seed=3)
    assert all((a.permutation == b.permutation).all() for a, b in zip(many, same, strict=True))
    assert any((a.permutation != b.permutation).any() for a, b in zip(many, views(4, seed=4), strict=True))
    assert any(v.permutation[0] for v in views(4, black="free"))
