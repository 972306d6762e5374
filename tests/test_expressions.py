"""Expressions: exact values, depths, the study's data number for number, files with line numbers, splits apart."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsrc.data import expression_sampler as sampler
from jaxsrc.data.expression_sampler import SamplerConfig
from jaxsrc.data.expression_study import entropy, study_data
from jaxsrc.data.expressions import depths, expression, overlap, parse, read, refuse_overlap, value, write
from jaxsrc.errors import UserError

STUDY = study_data()


def trees():
    return st.recursive(st.integers(0, 99), lambda inner: st.tuples(st.sampled_from("+-*"), inner, inner), max_leaves=8)


@given(trees())
def test_needed_parentheses_keep_the_value_and_none_is_redundant(tree):
    text = sampler.render(tree)
    assert value(parse(text)) == value(tree) == eval(text)
    for at, char in enumerate(text):
        if char == "(":
            level = depths(text)[at]
            close = next(i for i in range(at, len(text)) if depths(text)[i] == level - 1)
            without = text[:at] + text[at + 1 : close] + text[close + 1 :]
            assert parse(without) != parse(text)  # as a tree: values can agree by chance


@pytest.mark.parametrize("text", ["", "1+", "(1", "1)", "1++2", "1 + 2", "a", "()", "-1", "2(3)"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(UserError):
        parse(text)


def test_the_studys_data_number_for_number():
    texts = [e.text for e in STUDY.train]
    lengths = [len(t) for t in texts]
    assert len(texts) == 2000 and sum("(" in t for t in texts) == 1374
    assert (min(lengths), max(lengths), round(sum(lengths) / 2000, 1)) == (3, 17, 10.0)
    assert len(set(texts)) == 1998 and max(e.result for e in STUDY.train) == 43_213_632
    assert (len(STUDY.val), len(STUDY.flat), len(STUDY.paren), len(STUDY.depth3)) == (200, 100, 100, 100)
    assert not any("(" in e.text for e in STUDY.flat) and all("(" in e.text for e in STUDY.paren)
    assert {e.nesting for e in STUDY.depth3} == {3}
    assert sum(e.text.startswith("(((") and e.text.endswith(")))") and e.text.count("(") == 3 for e in STUDY.depth3) >= 34
    assert overlap({"train": STUDY.train, "paren": STUDY.paren}) == [("train", "paren", "((77*50))")]
    assert (
        round(entropy(), 1) == 18.7
        and 1.05 < entropy() / np.mean([len(e.text) + 4 + len(str(e.result)) for e in STUDY.train]) < 1.08
    )
    with pytest.raises(UserError, match=r"train and .*paren"):
        refuse_overlap({"train": STUDY.train, "a paren": STUDY.paren})


def test_a_file_holds_the_studys_form_and_comes_back(tmp_path):
    items = [*STUDY.val[:5], expression("(1+(2*3))")]
    write(tmp_path / "a.jsonl", items)
    last = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[-1])
    assert last == {"expr": "(1+(2*3))", "result": 7, "depth": [1, 1, 1, 2, 2, 2, 2, 1, 0]}
    assert read(tmp_path / "a.jsonl") == items


@pytest.mark.parametrize(
    "line, words",
    [
        ("{", "JSON object"),
        ('{"expr": "1+1", "result": 2}', "keys"),
        ('{"expr": "1+1", "result": 3, "depth": [0,0,0]}', "to be 2, got 3"),
        ('{"expr": "1+1", "result": "2", "depth": [0,0,0]}', "integer"),
        ('{"expr": "1+1", "result": true, "depth": [0,0,0]}', "integer"),
        ('{"expr": "1+1", "result": 2, "depth": [0,0]}', "3 characters"),
        ('{"expr": "1+1", "result": 2, "depth": [0,1,0]}', "depths"),
        ('{"expr": "1+x", "result": 2, "depth": [0,0,0]}', "got 'x' at position 2"),
        ('{"expr": "1/1", "result": 1, "depth": [0,0,0]}', "'/'"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line, words):
    good = '{"expr": "1+1", "result": 2, "depth": [0, 0, 0]}'
    (tmp_path / "a.jsonl").write_text(f"{good}\n{line}\n")
    with pytest.raises(UserError, match="line 2") as caught:
        read(tmp_path / "a.jsonl")
    assert words in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("operators", ["+-*", "-", "+*", "*-"])
@pytest.mark.parametrize("depth", [0, 1, 3, 6])
def test_depth_length_operators_and_limit_are_what_was_asked_for(operators, depth):
    high = sampler.fewest(depth, operators) + 3
    config = SamplerConfig(depths=(depth,), operands=(2, high), operators=operators, numbers=9, limit=10**7)
    found = sampler.sample_many(3, 30, config)
    assert found == sampler.sample_many(3, 30, config) != sampler.sample_many(4, 30, config)
    for one in found:
        assert one.nesting == depth and set(one.operators) <= set(operators) and abs(one.result) <= 10**7
        assert 2 <= sum(c in "+-*" for c in one.text) + 1 <= high
        assert value(parse(one.text)) == one.result


def test_splits_share_nothing_and_impossible_wishes_are_refused():
    small = SamplerConfig(depths=(0,), operands=(2, 2), numbers=3)
    made = sampler.splits(0, [("a", 15, small), ("b", 10, small)])
    assert overlap(made) == []
    with pytest.raises(UserError, match="different"):
        sampler.sample_many(0, 28, small)  # 3 * 3 * 3 texts exist
    for wrong, words in (
        (SamplerConfig(depths=(3,), operands=(2, 4)), "at least 5 numbers"),
        (SamplerConfig(depths=(1,), operators="+"), "need parentheses"),
        (SamplerConfig(operators="+/"), "some of"),
        (SamplerConfig(operands=(4, 2)), "least <= most"),
    ):
        with pytest.raises(UserError, match=words):
            sampler.check(wrong)


@pytest.mark.parametrize("text", ["(" * 51 + "1" + ")" * 51, "1+" * 500 + "1"])
def test_what_recursion_could_not_walk_is_refused(text):
    with pytest.raises(UserError, match="1000 characters and 50 levels"):
        expression(text)
    expression("(" * 50 + "1" + ")" * 50)
