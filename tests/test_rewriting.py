"""The rewriting loop: a perfect reader solves everything in it, and every way to fail is an answer of None with its reason."""

import numpy as np
import pytest

from jaxsrc.data.expression_sampler import SamplerConfig, sample_many
from jaxsrc.data.expression_steps import chain, reduced, sites
from jaxsrc.data.expression_text import REWRITE, pad, reverse_numbers
from jaxsrc.errors import UserError
from jaxsrc.rewriting import Rewriter, reduce_answer


def text_of(row):
    return reverse_numbers(REWRITE.decode(np.asarray(row).tolist()))


class Perfect(Rewriter):
    """Marks and reduces by the rules instead of by a model; what it does can be spoilt."""

    def __init__(self, mark=None, answer=None, passes=400):
        self.params, self.batch, self.new, self.passes = None, 8, 40, passes
        self._locate, self._greedy = self.marks, self.replies
        self.rule = mark or (lambda text: [i for span in sites(text) for i in range(*span)])
        self.answer = answer or reduced
        self.calls = 0

    def marks(self, params, tokens, lengths):
        out = np.zeros(tokens.shape, int)
        for i, row in enumerate(tokens):
            text = text_of(row)
            if text:
                out[i, [1 + j for j in self.rule(text)]] = 1
        return out

    def replies(self, params, tokens, lengths):
        self.calls += 1
        texts = [text_of(row) for row in tokens]
        return pad([reduce_answer(self.answer(t[:-1])) if t.endswith("=") else [2] for t in texts], 40)


def test_a_perfect_reader_walks_every_chain_to_its_end():
    items = sample_many(1, 20, SamplerConfig(depths=(0, 2, 5), operands=(2, 8)))
    traces = Perfect().run([e.text for e in items])
    assert [t.answer for t in traces] == [e.result for e in items]
    for trace, item in zip(traces, items, strict=True):
        assert trace.calls == [(s.text, s.new) for s in chain(item.text)] and not trace.failure


@pytest.mark.parametrize(
    "reader, words",
    [
        (Perfect(mark=lambda t: [0, 2], answer=lambda t: ""), "no usable answer to 1"),
        (Perfect(mark=lambda t: []), "no number"),
        (Perfect(passes=1), "not finished"),
        (Perfect(answer=lambda t: "1+2+3"), "no usable answer"),
    ],
)
def test_what_goes_wrong_is_said(reader, words):
    trace = reader.run(["1+2+3"])[0]
    assert trace.answer is None and words in trace.failure


def test_an_expression_that_no_bucket_holds_is_refused():
    with pytest.raises(UserError, match="254 characters, got 401"):
        Perfect().run(["1" + "+1" * 200])
