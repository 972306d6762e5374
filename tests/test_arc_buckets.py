"""Padded episodes: every cell in its place, masks true to sizes, batches a pure function of (seed, step)."""

from collections import Counter

import jax
import numpy as np
import pytest

from jaxsrc.data.arc import SIDES, Pair, Task
from jaxsrc.data.arc_buckets import OUTSIDE, EpisodeSampler, buckets, cells_within, pad_episode
from jaxsrc.data.arc_files import load
from jaxsrc.errors import UserError


def numbered(name, pairs, size=(2, 3), hidden_tests=0):
    """A task whose pair i (tests last) has input cells i and output cells i + 5 of transposed size."""
    made = [Pair(np.full(size, i, np.uint8), np.full(size[::-1], i + 5, np.uint8)) for i in range(pairs)]
    tests = [Pair(pair.input, None) for pair in made[:hidden_tests]] or made[-1:]
    return Task(name, "made", tuple(made[: len(made) - (not hidden_tests)]), tuple(tests))


def unpad(grids, sizes):
    return grids[: sizes[0], : sizes[1]]


def test_padding_keeps_grids_and_unpadding_returns_them():
    tasks = load("arcagi1:training")[:40]
    queries = [len(task.test) - 1 for task in tasks]
    episode = pad_episode(tasks, 30, 10, queries)
    assert episode.inputs.shape == episode.outputs.shape == (40, 11, 30, 30) and episode.inputs.dtype == np.int8
    assert episode.input_sizes.shape == (40, 11, 2) and episode.input_sizes.dtype == np.int32
    for i, task in enumerate(tasks):
        absent = slice(len(task.train), 10)
        assert episode.pair_mask[i].tolist() == [j < len(task.train) or j == 10 for j in range(11)]
        assert (episode.inputs[i, absent] == OUTSIDE).all() and not episode.input_sizes[i, absent].any()
        for j, pair in [*enumerate(task.train), (10, task.test[queries[i]])]:
            np.testing.assert_array_equal(unpad(episode.inputs[i, j], episode.input_sizes[i, j]), pair.input)
            np.testing.assert_array_equal(unpad(episode.outputs[i, j], episode.output_sizes[i, j]), pair.output)
    np.testing.assert_array_equal(episode.input_mask, episode.inputs != OUTSIDE)
    np.testing.assert_array_equal(episode.output_mask, episode.outputs != OUTSIDE)


def test_hidden_outputs_have_no_cells():
    episode = pad_episode([numbered("a", 3, hidden_tests=1)], 5, 3)
    assert episode.pair_mask.all() and episode.input_mask[0, -1].sum() == 6
    assert not episode.output_mask[0, -1].any() and (episode.outputs[0, -1] == OUTSIDE).all()


def test_masks_are_the_same_traced():
    sizes = np.array([[0, 0], [1, 3], [4, 4]], np.int32)
    mask = cells_within(sizes, 4)
    assert mask.sum(axis=(1, 2)).tolist() == [0, 3, 16] and mask[1, 0].tolist() == [True, True, True, False]
    np.testing.assert_array_equal(jax.jit(lambda s: cells_within(s, 4))(sizes), mask)
    episode = pad_episode([numbered("a", 3)], 5, 2)
    np.testing.assert_array_equal(jax.jit(lambda e: e.output_mask)(episode), episode.output_mask)


def test_nothing_is_dropped_in_silence():
    with pytest.raises(UserError, match="task a: expected at most 1 demonstrations with sides up to 5, got 2 with"):
        pad_episode([numbered("a", 3)], 5, 1)
    with pytest.raises(UserError, match="got 2 with sides up to 6; take a larger bucket"):
        pad_episode([numbered("a", 3, size=(1, 6))], 5, 2)


def test_buckets_partition_the_tasks_by_scale():
    tasks = load("arcagi1:training")
    found = buckets(tasks)
    assert {side: len(group) for side, group in found.items()} == dict(
        zip(SIDES, [25, 153, 88, 76, 28, 30], strict=True)
    )
    assert all(task.max_side <= side for side, group in found.items() for task in group)
    assert list(buckets([numbered("a", 2, size=(11, 1))])) == [15]


def test_batches_are_a_pure_function_of_seed_and_step():
    make = lambda: EpisodeSampler(load("arcagi1:training"), 10, 8, 4)
    one, other = make(), make()
    assert one.tasks == 25 + 153  # every task that fits, smaller scales included
    for step in (3, 0, 7, 3):
        jax.tree.map(np.testing.assert_array_equal, one.batch_at(5, step), other.batch_at(5, step))
    other.batch_at(5, 99)
    jax.tree.map(np.testing.assert_array_equal, one.batch_at(5, 4), other.batch_at(5, 4))
    assert any((one.batch_at(5, 3).inputs != one.batch_at(s, t).inputs).any() for s, t in ((5, 4), (6, 3)))
    shapes = {tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(one.batch_at(0, t))) for t in range(20)}
    assert shapes == {
        (((8, 5, 10, 10), "int8"),) * 2 + (((8, 5, 2), "int32"),) * 2 + (((8, 5), "bool"),),
    }


def test_every_pair_is_drawn_as_query_and_never_beside_itself():
    sampler = EpisodeSampler([numbered("a", 4)], 5, 64, 2)
    queries, pairs = Counter(), Counter()
    for step in range(20):
        batch = sampler.batch_at(0, step)
        assert batch.pair_mask.all()
        names = batch.inputs[:, :, 0, 0]
        np.testing.assert_array_equal(batch.outputs[:, :, 0, 0], names + 5)
        assert all(len(set(row)) == 3 for row in names.tolist())
        queries.update(names[:, -1].tolist())
        pairs.update(map(tuple, names.tolist()))
    assert set(queries) == {0, 1, 2, 3} and min(queries.values()) > 230  # 320 expected, standard deviation 15.5
    assert len(pairs) == 24


def test_pairs_of_one_row_are_of_one_task_and_short_tasks_leave_absent_pairs():
    tasks = [numbered("a", 2, (1, 1)), numbered("b", 5, (2, 2)), numbered("large", 3, (6, 1))]
    sampler = EpisodeSampler(tasks, 5, 32, 3)
    assert sampler.tasks == 2
    seen = Counter()
    for step in range(10):
        batch = sampler.batch_at(1, step)
        for mask, sizes in zip(batch.pair_mask, batch.input_sizes, strict=True):
            present = {tuple(size) for size in sizes[mask].tolist()}
            assert len(present) == 1 and mask[-1]
            side = present.pop()[0]
            assert mask.tolist() == ([True, False, False, True] if side == 1 else [True] * 4)
            assert not sizes[~mask].any()
            seen[side] += 1
    assert min(seen[1], seen[2]) > 110  # 160 expected of 320, standard deviation 9


def test_more_demonstrations_than_any_task_has():
    batch = EpisodeSampler([numbered("a", 3)], 5, 4, 9).batch_at(0, 0)
    assert batch.pair_mask.sum(1).tolist() == [3] * 4 and batch.pair_mask[:, -1].all()


def test_hidden_outputs_are_never_drawn_and_nothing_to_draw_is_refused():
    sampler = EpisodeSampler([numbered("a", 3, hidden_tests=2), numbered("b", 1, hidden_tests=1)], 5, 64, 2)
    assert sampler.tasks == 1
    assert sampler.batch_at(0, 0).output_sizes.all()
    with pytest.raises(UserError, match="expected training tasks with sides up to 5, got none"):
        EpisodeSampler([numbered("a", 3, size=(6, 6)), numbered("b", 1, hidden_tests=1)], 5, 2, 2)
