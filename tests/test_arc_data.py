"""Tasks in memory: scale, digest, leaks, the development split; and the known counts of the real sets."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsrc.data.arc import (
    SIDES,
    Pair,
    Task,
    deduplicate,
    leaks,
    refuse_leaks,
    scale_of,
    split_development,
    without_leaks,
)
from jaxsrc.data.arc_files import load, training_pool
from jaxsrc.errors import UserError


def grid(h, w, seed=0):
    return np.random.default_rng((h, w, seed)).integers(0, 10, (h, w)).astype(np.uint8)


def pair(seed, h=3, w=4, hidden=False):
    return Pair(grid(h, w, seed), None if hidden else grid(h, w, seed + 1000))


def task(name="a", train=(1, 2, 3), test=(4,)):
    return Task(name, "made", tuple(map(pair, train)), tuple(map(pair, test)))


@pytest.mark.parametrize("side, scale", [(1, 0), (5, 0), (6, 1), (10, 1), (11, 2), (16, 3), (21, 4), (26, 5), (30, 5)])
def test_scale_of_a_side(side, scale):
    assert scale_of(side) == scale
    assert side <= SIDES[scale] and (scale == 0 or side > SIDES[scale - 1])


@pytest.mark.parametrize("side", [0, 31])
def test_no_scale_beyond_the_sides(side):
    with pytest.raises(UserError, match=f"1 to 30, got {side}"):
        scale_of(side)


def test_scale_is_by_the_largest_side_over_all_grids():
    small = Pair(grid(3, 3), grid(3, 3))
    assert Task("a", "made", (small,), (small,)).scale == 0
    assert Task("a", "made", (small, Pair(grid(2, 17), grid(1, 1))), (small,)).scale == 3
    assert Task("a", "made", (small,), (Pair(grid(3, 3), grid(26, 2)),)).scale == 5
    assert Task("a", "made", (small,), (Pair(grid(3, 3), None),)).scale == 0


def test_same_size_ignores_only_hidden_outputs():
    small = Pair(grid(3, 4), grid(3, 4))
    assert Task("a", "made", (small,), (Pair(grid(5, 5), None),)).same_size
    assert not Task("a", "made", (small,), (Pair(grid(3, 4), grid(4, 3)),)).same_size


@settings(max_examples=30, deadline=None)
@given(st.permutations((1, 2, 3, 4, 5)), st.permutations((6, 7)))
def test_digest_ignores_order_and_id(train, test):
    assert task("x", train, test).digest == task("y", (1, 2, 3, 4, 5), (6, 7)).digest


def test_digest_sees_every_cell_the_shape_and_the_roles_of_grids():
    cells = np.arange(6, dtype=np.uint8)
    one = Pair(cells.reshape(2, 3), cells.reshape(2, 3))
    changed = cells.copy()
    changed[4] = 9
    others = [
        Pair(cells.reshape(3, 2), cells.reshape(2, 3)),
        Pair(cells.reshape(2, 3), cells.reshape(3, 2)),
        Pair(cells.reshape(2, 3), changed.reshape(2, 3)),
        Pair(cells.reshape(2, 3), None),
    ]
    assert len({p.digest for p in [one, *others]}) == 5
    assert Pair(cells.reshape(2, 3).astype(np.int64), cells.reshape(2, 3)).digest == one.digest
    swapped = Pair(changed.reshape(2, 3), cells.reshape(2, 3))
    assert swapped.digest != others[2].digest


def test_leak_by_id_by_content_and_by_test_pair():
    scored = [task("a", (1, 2), (3,))]
    by_id, by_content = task("a", (7, 8), (9,)), task("b", (2, 3), (1,))
    by_pair, innocent = task("c", (7, 3), (8,)), task("d", (1, 2), (8,))
    found = list(leaks([by_id, by_content, by_pair, innocent], scored))
    assert [(leak.training.id, leak.scored.id, leak.how) for leak in found] == [
        ("a", "a", "id"),
        ("b", "a", "content"),
        ("c", "a", "test pair"),
    ]
    assert without_leaks([by_id, by_content, by_pair, innocent], scored) == (innocent,)
    refuse_leaks([innocent], scored)
    with pytest.raises(UserError) as error:
        refuse_leaks([by_id, by_content, by_pair, innocent], scored)
    line = str(error.value)
    assert "got 3: a of made (same id as a of made), b of made (same content as a of made)" in line and "\n" not in line


def test_equal_outputs_alone_are_no_leak_but_a_hidden_output_is_guarded_by_its_input():
    known, hidden = pair(3), pair(3, hidden=True)
    elsewhere = Task("b", "made", (Pair(grid(9, 9), known.output),), (pair(5),))
    assert not list(leaks([elsewhere], [Task("a", "made", (pair(1),), (known,))]))
    scored = [Task("a", "made", (pair(1),), (hidden,))]
    assert [leak.how for leak in leaks([Task("c", "made", (known,), (pair(6),))], scored)] == ["test pair"]


def test_many_leaks_are_counted_not_listed():
    tasks = [task(f"task{i}") for i in range(9)]
    with pytest.raises(UserError, match=r"got 9: .*task4 .* and 4 more") as error:
        refuse_leaks(tasks, tasks)
    assert "task5" not in str(error.value)


def test_deduplicate_keeps_the_first_of_each_id_and_content():
    first, again, renamed, other = task("a"), task("a", (7, 8)), task("b", (3, 1, 2)), task("c", (5, 6))
    assert deduplicate([first, again, renamed, other]) == (first, other)
    own = task("d", (7, 8))  # the content of `again`, which was dropped for its id
    assert deduplicate([first, again, own]) == (first, own)


def test_split_is_a_partition_that_no_other_task_moves():
    tasks = load("arcagi1:training")
    split = split_development(tasks)
    assert 25 <= len(split.development) <= 60
    assert sorted(t.id for t in split.training + split.development) == [t.id for t in tasks]
    half = split_development(tasks[::-2])
    assert {t.id for t in half.development} == {t.id for t in split.development} & {t.id for t in tasks[::-2]}
    renamed = [Task("x" + t.id, "elsewhere", t.train[::-1], t.test) for t in tasks]
    assert [t.id[1:] for t in split_development(renamed).development] == [t.id for t in split.development]


@pytest.mark.parametrize(
    "source, scales, same_size, outputs",
    [
        ("arcagi1:training", [25, 153, 88, 76, 28, 30], 262, 416),
        ("arcagi1:evaluation", [6, 71, 112, 93, 43, 75], 270, 419),
        ("arcagi2:training", [34, 267, 240, 237, 88, 134], 680, 1076),
        ("arcagi2:evaluation", [0, 2, 7, 27, 21, 63], 81, 167),
    ],
)
def test_known_counts(source, scales, same_size, outputs):
    tasks = load(source)
    count = Counter(t.scale for t in tasks)
    assert [count[s] for s in range(6)] == scales
    assert sum(t.same_size for t in tasks) == same_size
    assert sum(len(t.test) for t in tasks) == outputs
    assert len({t.id for t in tasks}) == len(tasks) and {t.source for t in tasks} == {source}


def test_the_known_duplicate_is_caught():
    training, scored = load("arcagi1:training"), load("arcagi1:evaluation")
    with pytest.raises(UserError, match=r"got 1: 40853293 of arcagi1:training \(same content as 070dd51e of"):
        refuse_leaks(training, scored)
    refuse_leaks(without_leaks(training, scored), scored)


def test_arc2_training_repeats_arc1_and_the_pool_leaves_the_scored_out():
    training, scored, second = (
        {t.id for t in load(source)} for source in ("arcagi1:training", "arcagi1:evaluation", "arcagi2:training")
    )
    assert len(second & training) == 391 and len(second & scored) == 376
    pool = training_pool(["arcagi1:training", "arcagi2:training"], ["arcagi1:evaluation"])
    refuse_leaks(pool, load("arcagi1:evaluation"))
    assert not {t.id for t in pool} & (scored | {"40853293"})
    assert len({t.id for t in pool}) == len({t.digest for t in pool}) == len(pool) == 632
    assert len(training_pool(["arcagi2:training"], ["arcagi1:evaluation"])) == 1000 - 376


def test_a_pool_with_nothing_left_is_refused():
    with pytest.raises(UserError, match="expected at least one training task"):
        training_pool(["arcagi1:evaluation"], ["arcagi1:evaluation"])
