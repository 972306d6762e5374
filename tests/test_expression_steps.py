"""Steps: every chain ends in the exact value, one site at a time; text and numbers, and the tracks' rows."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxsrc import depth_data
from jaxsrc.data.expression_sampler import SamplerConfig, sample_many
from jaxsrc.data.expression_steps import chain, drill, next_step, outline, parts, reduced, sites, to_int
from jaxsrc.data.expression_text import BOS, EOS, REWRITE, STUDY, pad, reverse_numbers
from jaxsrc.data.expressions import depths, expression
from jaxsrc.depth_data import DepthDataConfig, answer_row, prompt_row, read_answer, rewrite_pools, sequence_pool
from jaxsrc.errors import UserError

ITEMS = sample_many(5, 60, SamplerConfig(depths=(0, 1, 2, 5), operands=(2, 8)))


def meaning(text):
    """Value of a text between steps, by Python: ~ is a sign."""
    return eval(text.replace("~", "-"))


def test_every_step_keeps_the_value_and_the_chain_ends_in_it():
    for item in ITEMS:
        steps = chain(item.text)
        assert all(meaning(s.text) == meaning(s.after) for s in steps)
        assert all(meaning(s.site) == meaning(s.new) == to_int(s.result) for s in steps)
        texts = outline(item.text)
        assert to_int(texts[-1]) == item.result and sites(texts[-1]) == [] and len(texts) <= len(steps) + 1
        assert max(max(depths(s.text)) for s in steps) <= item.nesting  # nothing opens parentheses of its own


def test_products_come_first_and_the_innermost_group_before_them():
    texts = [s.site for s in chain("9-2*(3-(4-5)*6)")]
    assert texts == ["(4-5)", "~1*6", "(3-~6)", "2*9", "9-18"]
    assert reduced("~12*~34") == "12*4+120*3" and reduced("~12*34") == "~12*4+~120*3"
    assert reduced("5*75") == "5*5+70*5" and reduced("~470*9") == "~70*9+~400*9" and reduced("~400*3") == "~1200"
    assert reduced("~3*0") == "0" and reduced("(~5)") == "~5" and next_step("~7") is None
    for wrong in ("12", "1+2+3", "a+b"):
        with pytest.raises(UserError):
            reduced(wrong)


@given(st.integers(0, 10**6))
def test_drills_are_right(seed):
    text = drill(random.Random(seed), 8, 10**7)
    assert meaning(text) == meaning(reduced(text)) and "~0" not in text
    a, _, b = parts(drill(random.Random(seed), 3, 99))
    assert max(abs(a), abs(b)) <= 99


@given(st.text("0123456789+-*()"))
def test_reversing_numbers_twice_changes_nothing(text):
    assert reverse_numbers(reverse_numbers(text)) == text


def test_vocabularies_and_padding_refuse_what_they_cannot_hold():
    assert len(STUDY) == 35 and STUDY.decode([BOS, *STUDY.encode("1+1 = 2"), EOS, 5]) == "1+1 = 2"
    with pytest.raises(UserError, match="'x' at position 1"):
        STUDY.encode("1x")
    with pytest.raises(UserError, match="at most 2 tokens, got 3"):
        pad([[1, 2, 3]], 2)


@pytest.mark.parametrize("track, reverse", [("direct", False), ("direct", True), ("steps", False)])
def test_a_right_answer_is_read_back(track, reverse):
    for item in ITEMS:
        assert read_answer(track, answer_row(track, item, reverse), reverse) == item.result
        assert read_answer(track, answer_row(track, item, reverse)[:-1], reverse) is None
    assert read_answer(track, [*depth_data.vocabulary(track).encode("1-2"), EOS], reverse) is None


def test_labels_are_the_next_tokens_and_the_answer_begins_where_it_is_said():
    item = expression("(1+2)*3")
    pool = sequence_pool("direct", [item], 20, False)
    assert STUDY.decode(pool.labels[0].tolist()) == "(1+2)*3 = 9"
    assert STUDY.decode(pool.labels[0, pool.begin[0] :].tolist()) == "9"
    assert prompt_row("direct", item.text) == pool.tokens[0, : pool.begin[0] + 1].tolist()
    with pytest.raises(UserError, match="at most 9 tokens"):
        sequence_pool("direct", [item], 8, False)


def test_rewriting_rows_mark_the_site_and_hold_every_reduction_once():
    config = DepthDataConfig(drills=50, drill_digits=4)
    marked, reductions = rewrite_pools([expression("12-(3+4)")], config, 24, 40)
    assert REWRITE.decode(marked.tokens[0].tolist()) == "21-(3+4)"
    assert REWRITE.decode(marked.labels[0].tolist()) == "kkkkttttt" + "k"
    assert REWRITE.decode(marked.labels[-1].tolist()) == "k" * 3
    texts = [REWRITE.decode(row.tolist()) for row in reductions.tokens]
    assert len(texts) == 52 and "3+4=7" in texts and "21-7=5" in texts
    for tokens, begin in zip(reductions.tokens, reductions.begin, strict=True):
        prompt, answer = reverse_numbers(REWRITE.decode(tokens.tolist())).split("=")
        assert meaning(prompt) == meaning(answer) and tokens[begin] == REWRITE.one("=")
    short, long = reductions.split(14)
    assert short.tokens.shape[1] == 14 and len(short.tokens) + len(long.tokens) == len(reductions.tokens)
    assert (long.tokens[:, 14] != 0).all() and np.array_equal(long.tokens[0, :1], [BOS])
