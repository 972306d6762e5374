"""Sections, canvases and episodes: what a view or a colour permutation does to a grid it does to them."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsrc.data.arc_files import load
from jaxsrc.data.augment import dihedral
from jaxsrc.solver import canvas, symmetry, transport
from jaxsrc.solver.episodes import EpisodeSampler, pack, recolor, stalk_task, view
from jaxsrc.solver.objects import EIGHT, FOUR, NONE, background, components, enclosed
from jaxsrc.solver.sections import SOURCE_NAMES, sections
from jaxsrc.solver.stalks import ATTRIBUTE_ORDERS, SOURCE_ORDERS, attributes


def random_grid(seed):
    rng = np.random.default_rng(seed)
    h, w = rng.integers(1, 9, 2)
    return rng.integers(0, 5, (h, w)) * (rng.random((h, w)) < 0.4)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_stalks_of_a_view_are_the_view_of_the_stalks(seed, which):
    grid = random_grid(seed)
    before, after = sections([grid]), sections([np.ascontiguousarray(dihedral(grid, which))])
    np.testing.assert_array_equal(dihedral(attributes(before), which)[..., ATTRIBUTE_ORDERS[which]], attributes(after))
    moved = dihedral(before.sources, which)[..., SOURCE_ORDERS[which]]
    # Completions take the first of equally good symmetries, an order that a view can change.
    fixed = [i for i, name in enumerate(SOURCE_NAMES) if name not in ("by translation", "by reflection")]
    np.testing.assert_array_equal(moved[..., fixed], after.sources[..., fixed])


def test_rays_stop_at_the_first_colour():
    grid = np.array([[0, 3, 0, 0], [0, 0, 0, 5], [7, 0, 0, 0]])
    found = sections([grid])
    source = dict(zip(SOURCE_NAMES, np.moveaxis(found.sources, -1, 0), strict=True))
    assert source["ray right"][1, 0] == 5 and source["ray left"][1, 0] == NONE
    assert source["ray up"][2, 1] == 3 and source["ray down"][0, 0] == 7
    assert source["ray down-right"][0, 2] == 5 and source["ray up-right"][2, 0] == NONE
    assert source["fallen down"][2, 1] == 3 and source["end left"][2, 3] == 7


def test_components_and_enclosed_cells():
    ring = np.zeros((5, 5), int)
    ring[1:4, 1:4] = 2
    ring[2, 2] = 0
    assert background(ring) == 0
    assert enclosed(ring, 0, FOUR).sum() == 1
    _, found = components(ring, 0, EIGHT, one_color=False)
    assert [c.size for c in found] == [8]
    ring[1, 1] = 0
    assert enclosed(ring, 0, FOUR).sum() == 1 and enclosed(ring, 0, EIGHT).sum() == 0


def test_hidden_cells_of_a_symmetric_picture_come_back():
    tile = np.random.default_rng(0).integers(1, 9, (3, 4))
    picture = np.tile(tile, (4, 3))
    hidden = picture.copy()
    hidden[2:6, 1:5] = 0
    np.testing.assert_array_equal(symmetry.translated(hidden, 0), picture)
    quarter = np.random.default_rng(1).integers(1, 9, (5, 5))
    whole = np.block([[quarter, quarter[:, ::-1]], [quarter[::-1], quarter[::-1, ::-1]]])
    hidden = whole.copy()
    hidden[0:4, 1:4] = 9 * 0
    np.testing.assert_array_equal(symmetry.mirrored_fill(hidden, 0), whole)
    assert symmetry.translated(np.random.default_rng(2).integers(0, 9, (8, 8)), 0) is None


def test_a_legend_names_partners():
    grid = np.zeros((4, 6), int)
    grid[0, :2] = [3, 7]
    grid[3, 4] = 3
    assert transport.partner(grid, 0)[3, 4] == 7


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("same", lambda g: g[::-1]),
        ("tiled", lambda g: np.tile(g, (2, 3))),
        ("enlarged", lambda g: np.kron(g, np.ones((2, 2), int))),
        ("parts", lambda g: g[:, : g.shape[1] // 2]),
    ],
)
def test_canvases_are_found_where_the_sizes_fit(name, make):
    rng = np.random.default_rng(3)
    inputs = [rng.integers(0, 9, (4, 6)), rng.integers(0, 9, (6, 4))]
    found = canvas.hypotheses(inputs, [make(g) for g in inputs], [rng.integers(0, 9, (4, 4))])
    chosen = next(c for c in found if c.name == name)
    assert chosen.train[0][0].shape == make(inputs[0]).shape
    assert all(c.train[i][0].shape == make(g).shape for c in found for i, g in enumerate(inputs))


def test_panels_are_cut_at_separating_lines():
    grid = np.zeros((7, 3), int)
    grid[3] = 5
    grid[0, 0] = grid[6, 2] = 1
    top, bottom = canvas.panels(grid)
    assert top[0, 0] == 1 and bottom[2, 2] == 1 and top.shape == bottom.shape == (3, 3)


@pytest.fixture(scope="module")
def stalk_tasks():
    return [s for t in load("arcagi1:training")[:12] if (s := stalk_task(t)) is not None]


def test_batches_are_a_function_of_seed_and_step(stalk_tasks):
    sampler = EpisodeSampler(stalk_tasks, 10, 4, 3)
    a, b, other = sampler.batch_at(1, 5), sampler.batch_at(1, 5), sampler.batch_at(1, 6)
    np.testing.assert_array_equal(a.sources, b.sources)
    assert (a.colors.shape, a.colors.dtype) == ((4, 4, 10, 10), np.int8)
    assert not np.array_equal(a.colors, other.colors)
    assert (a.colors[:, -1] >= 0).any((1, 2)).all(), "every query has cells"


def test_device_views_and_colours_equal_the_stalks_of_the_changed_task(stalk_tasks):
    task = next(t for t in stalk_tasks if t.canvas == "same")
    episode = pack(task.pairs[:2], 10)
    permutation = np.roll(np.arange(10), 3)
    back = np.argsort(permutation)
    changed = recolor(view(episode, 5), jnp.array(permutation))
    again = recolor(changed, jnp.array(back))
    seen = view(episode, 5)
    np.testing.assert_array_equal(again.sources, seen.sources)
    np.testing.assert_array_equal(again.colors, seen.colors)
    np.testing.assert_array_equal(changed.attributes, seen.attributes)
    live = np.array(seen.colors) >= 0
    np.testing.assert_array_equal(np.array(changed.colors)[live], permutation[np.array(seen.colors)[live]])
    np.testing.assert_array_equal(view(episode, 0).sources, episode.sources)
