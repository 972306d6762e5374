"""Text data: batches are a function of (seed, step), every token validates once, and bad sources are named."""

import jax
import numpy as np
import pytest

from jaxsrc.data.text import Text, TextDataConfig, decoder, encoder, library_source, read_text
from jaxsrc.errors import UserError
from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.text_experiment import TextConfig, TextExperiment


def text_file(path, body="one two three four five six seven eight nine ten\n" * 20):
    path.write_text(body)
    return TextDataConfig(source=str(path))


def test_a_batch_is_a_function_of_seed_and_step(tmp_path):
    text = read_text(text_file(tmp_path / "a.txt"), 8)
    one = text.batch_at(3, 7, 4, 8)
    np.testing.assert_array_equal(one, text.batch_at(3, 7, 4, 8))
    assert one.shape == (4, 9) and one.dtype == np.int32
    assert not np.array_equal(one, text.batch_at(3, 8, 4, 8))
    assert not np.array_equal(one, text.batch_at(4, 7, 4, 8))
    whole = bytes(text.train)
    assert all(bytes(row.astype(np.uint8)) in whole for row in one)


def test_every_place_can_be_drawn():
    text = Text(np.arange(6, dtype=np.uint8), np.arange(6, dtype=np.uint8), 256, 6, "six")
    starts = {int(text.batch_at(0, s, 1, 4)[0, 0]) for s in range(64)}
    assert starts == {0, 1}


@pytest.mark.parametrize("length,size", [(4, 13), (4, 12), (5, 6), (3, 100)])
def test_every_token_but_the_first_is_a_target_once(length, size):
    tokens = np.arange(size, dtype=np.int32)
    windows, weights = Text(tokens, tokens, 256, size, "x").windows(length)
    np.testing.assert_array_equal(windows[:, 1:][weights > 0], np.arange(1, size))
    np.testing.assert_array_equal(windows[:, 1:][weights > 0] - 1, windows[:, :-1][weights > 0])


def test_fewer_windows_are_spread_over_the_part():
    tokens = np.arange(100, dtype=np.int32)
    windows, _ = Text(tokens, tokens, 256, 100, "x").windows(3, 4)
    assert [int(w[0]) for w in windows] == [0, 33, 63, 96]


def test_the_parts_do_not_overlap_and_split_no_character(tmp_path):
    body = "aé" * 500
    text = read_text(text_file(tmp_path / "a.txt", body), 8)
    joined = bytes(text.train) + bytes(text.valid)
    assert joined == body.encode()
    bytes(text.valid).decode()
    assert abs(len(text.valid) / len(joined) - 0.1) < 0.01
    assert text.bytes_per_token == 1


def test_the_wikitext_layout_keeps_its_own_parts(tmp_path):
    (tmp_path / "wiki.train.tokens").write_text("train " * 20)
    (tmp_path / "wiki.valid.tokens").write_text("valid " * 20)
    text = read_text(TextDataConfig(source=str(tmp_path)), 8)
    assert bytes(text.train) == b"train " * 20 and bytes(text.valid) == b"valid " * 20
    (tmp_path / "wiki.valid.tokens").unlink()
    with pytest.raises(UserError, match=r"expected one of wiki\.valid\.tokens"):
        read_text(TextDataConfig(source=str(tmp_path)), 8)


def test_a_folder_of_texts_is_read_in_order(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name * 100)
    (tmp_path / "c.bin").write_bytes(b"\0" * 100)
    text = read_text(TextDataConfig(source=str(tmp_path)), 8)
    assert bytes(text.train) == b"a" * 90 + b"b" * 90


def test_the_default_is_the_standard_librarys_source():
    files = library_source()
    assert len(files) > 150 and all("site-packages" not in str(p) for p in files)
    text = read_text(TextDataConfig(), 128)
    assert len(text.train) > 3_000_000 and "Python" in text.name


def test_a_tokenizer_file_is_used_and_undone(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers.processors import TemplateProcessing

    made = tokenizers.ByteLevelBPETokenizer()
    body = "the cat sat on the mat and the dog sat on the cat\n" * 30
    made.train_from_iterator([body], vocab_size=300)
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text(body)
    data = TextDataConfig(source=str(tmp_path / "a.txt"), tokenizer=str(tmp_path / "tokenizer.json"))
    text = read_text(data, 8)
    assert text.vocabulary == made.get_vocab_size() and text.bytes_per_token > 2
    assert body.startswith(decoder(data.tokenizer)(text.train[:20]))
    made.post_processor = TemplateProcessing(single="c $A", pair="c $A $B", special_tokens=[("c", made.token_to_id("c"))])
    made.save(data.tokenizer)
    prompt = "the cat sat on the mat"
    length = len(encoder(data.tokenizer)[0](prompt.encode())) + 1  # with the template's token there is no room
    model = GatedLMConfig(vocabulary=300, length=length, width=8, layers=1, heads=1)
    experiment = TextExperiment(TextConfig(data=data, model=model, batch=2, prompt=prompt))
    written = experiment.continuation(experiment.init(jax.random.key(0))[0])
    assert written is not None and written.startswith(prompt)
    with pytest.raises(UserError, match=r"expected a tokenizer\.json"):
        read_text(TextDataConfig(source=data.source, tokenizer=data.source), 8)


@pytest.mark.parametrize(
    "body,message",
    [
        (b"", "empty source"),
        (b"text\0text" * 10, "binary"),
        (b"caf\xe9 " * 20, "byte 0xe9 at 3"),
        (b"short", "at least 9 training tokens"),
    ],
)
def test_a_source_that_is_no_text_is_refused(tmp_path, body, message):
    path = tmp_path / "a.txt"
    path.write_bytes(body)
    with pytest.raises(UserError, match=message):
        read_text(TextDataConfig(source=str(path)), 8)


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="which does not exist"):
        read_text(TextDataConfig(source=str(tmp_path / "gone")), 8)
    with pytest.raises(UserError, match="expected text files"):
        read_text(TextDataConfig(source=str(tmp_path)), 8)
