"""The whole path without a download: a tiny LLaMA is made, converted, read once; a decoder trains on the cache and is scored."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tokenizers import Tokenizer

from jaxsrc import evaluate, extract, feature_cache, train
from jaxsrc.config import load
from jaxsrc.data import arc_text
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig
from jaxsrc.feature_cache import MANIFEST, Cache, Entry, Identity
from jaxsrc.hybrid_data import draw
from jaxsrc.hybrid_experiment import HybridExperiment
from jaxsrc.llama_store import open_store
from tests.llamas import make
from tests.test_hybrid import tasks
from torch_bridge.llama import convert


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with tasks and a converted LLaMA."""
    folder = tmp_path_factory.mktemp("path")
    (folder / "tasks").mkdir()
    for task in tasks(3):
        body = {
            part: [{"input": p.input.tolist(), "output": p.output.tolist()} for p in getattr(task, part)]
            for part in ("train", "test")
        }
        (folder / "tasks" / f"{task.id}.json").write_text(json.dumps(body))
    make(folder / "hf", "llama3.2, tied")
    convert(folder / "hf", folder / "llama")
    return folder


def overrides(place, cache, *more):
    return [
        f"experiment.data.source={place / 'tasks'}", "experiment.data.train=2", "experiment.data.validate=1",
        "experiment.model.side=5", "experiment.data.max_side=4", "experiment.model.width=16", "experiment.model.heads=2",
        "experiment.model.inner=16", "experiment.model.layers=1", "experiment.model.latents=2", "experiment.model.features=64",
        "experiment.features.layer=1", f"experiment.features.llama={place / 'llama'}", f"experiment.features.cache={cache}",
        "experiment.batch=4", "experiment.steps=4", "optim.warmup_steps=1", "train.eval_every=0", "runtime.device=cpu",
        "experiment.model.halt_steps=2", *more,
    ]  # fmt: skip


def hybrid(place, cache, *more):
    return load(RunConfig, "configs/hybrid_tiny.yaml", overrides(place, cache, *more)).experiment


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_extraction_interrupted_equals_uninterrupted_and_hits_equal_fresh_ones(place, tmp_path, monkeypatch):
    whole, broken = hybrid(place, tmp_path / "a"), hybrid(place, tmp_path / "b")
    assert extract.extract(whole, lambda line: None) == 12
    before = files(tmp_path / "a")
    assert extract.extract(whole, lambda line: None) == 0  # all hits
    compute, count = extract.Reader.compute, []

    def stops(self, text):
        count.append(text)
        if len(count) == 5:
            raise KeyboardInterrupt
        return compute(self, text)

    monkeypatch.setattr(extract.Reader, "compute", stops)
    with pytest.raises(KeyboardInterrupt):
        extract.extract(broken, lambda line: None)
    assert len(files(tmp_path / "b")) == 5  # the manifest and four entries, no half of one
    monkeypatch.undo()
    cut = next(p for p in (tmp_path / "b").iterdir() if p.name != MANIFEST)
    cut.write_bytes(cut.read_bytes()[:-10])  # a damaged entry is computed again
    assert extract.extract(broken, lambda line: None) == 9
    assert files(tmp_path / "b") == before


def test_a_cells_hidden_state_is_that_of_its_digit(place, tmp_path):
    config = hybrid(place, tmp_path / "a")
    extract.extract(config, lambda line: None)
    problems, stored = draw(config.data), open_store(place / "llama")
    cache = Cache.open(config.features, 64)
    words = Tokenizer.from_file(str(place / "llama" / "source" / "tokenizer.json"))
    model = stored.model()
    for sample in problems.samples[:3]:
        written = arc_text.write(sample.shown)
        entry, encoded = cache.read(written.text), words.encode(written.text)
        seen = [encoded.tokens[i] for i in entry.cells]
        assert seen == [str(c) for c in sample.question.ravel()]
        assert len(set(entry.cells.tolist())) == sample.question.size  # one token a cell
        alone = model.hidden(jnp.asarray([encoded.ids]), 1)[0]
        np.testing.assert_allclose(entry.hidden.astype(np.float32), alone, rtol=2**-7, atol=1e-3)


def test_the_commands_run_from_extraction_to_evaluation(place, tmp_path, capsys):
    given = overrides(place, tmp_path / "cache")
    assert extract.main(["configs/hybrid_tiny.yaml", *given]) == 0
    shutil.move(place / "llama", place / "away")  # the language model is not there while the decoder trains
    try:
        assert train.main(["configs/hybrid_tiny.yaml", *given, "--out", str(tmp_path / "run")]) == 0
        capsys.readouterr()
        assert evaluate.main([str(tmp_path / "run"), "--device", "cpu"]) == 0
    finally:
        shutil.move(place / "away", place / "llama")
    said = capsys.readouterr().out
    assert all(word in said for word in ("validation problems", "copy the input", "all padding", "decoder, voted"))
    size = sum(p.stat().st_size for p in (tmp_path / "run" / "checkpoints").rglob("*") if p.is_file())
    assert size < 2**20  # nothing of the language model is in it
    with pytest.raises(UserError, match=r"got another one: .*conditioning"):
        train.main(["configs/hybrid_tiny.yaml", *given, "experiment.model.conditioning=pooled", "--out", str(tmp_path / "run")])


def test_stale_foreign_and_incomplete_caches_are_refused(place, tmp_path):
    config = hybrid(place, tmp_path / "cache")
    build = lambda *more: HybridExperiment(hybrid(place, tmp_path / "cache", *more)).stages
    with pytest.raises(UserError, match="expected a feature cache, got none"):
        build()
    extract.extract(config, lambda line: None)
    build()
    with pytest.raises(UserError, match=r"layer: expected 2, got 1"):
        build("experiment.features.layer=2")
    with pytest.raises(UserError, match=r"width: expected 32, got 64"):
        build("experiment.model.features=32")
    with pytest.raises(UserError, match=r"layer: expected 2, got 1"):
        extract.extract(dataclasses.replace(config, features=dataclasses.replace(config.features, layer=2)))
    entry = next(p for p in (tmp_path / "cache").iterdir() if p.name != MANIFEST)
    entry.unlink()
    with pytest.raises(UserError, match="expected features of 12 prompts, got 11"):
        build()
    told = json.loads((tmp_path / "cache" / MANIFEST).read_text())
    (tmp_path / "cache" / MANIFEST).write_text(json.dumps(told | {"serialiser": "arc-text-0"}))
    with pytest.raises(UserError, match="serialiser: expected arc-text-1, got arc-text-0"):
        build()


def test_a_long_prompt_is_refused_or_loses_whole_demonstrations(place, tmp_path):
    config = hybrid(place, tmp_path / "a", "experiment.features.limit=100")
    with pytest.raises(UserError, match=r"expected a prompt of at most 100 tokens, got \d+, \d+ over; raise"):
        extract.extract(config)
    assert not (tmp_path / "a").exists()
    with pytest.raises(UserError, match="use style: compact"):  # even the question alone is too long
        extract.extract(hybrid(place, tmp_path / "b", "experiment.features.limit=20", "experiment.features.drop=true"))
    said = []
    roomy = hybrid(place, tmp_path / "c", "experiment.features.limit=180", "experiment.features.drop=true")
    assert extract.extract(roomy, said.append) == 12
    assert "demonstrations left out of prompts over 180 tokens" in said[0]


def test_a_full_disk_is_one_line(place, tmp_path, monkeypatch):
    config = hybrid(place, tmp_path / "a")
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(UserError, match=r"GB of free disk for 12 prompts, got 0\.00"):
        extract.extract(config, lambda line: None)
    monkeypatch.undo()
    cache = Cache.create(tmp_path / "b", Identity("a", "b", 1, 4, "spaced", 9, False))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_cache, "save_file", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        cache.write("text", Entry(np.zeros((2, 4), ml_dtypes.bfloat16), np.zeros(1, np.int32)))
    assert [p.name for p in (tmp_path / "b").iterdir()] == [MANIFEST]
