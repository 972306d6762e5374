"""Hugging Face folders: streamed in and back bit for bit, and every fault named before a weight is read."""

import json
import shutil

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxsrc.errors import UserError
from jaxsrc.llama_store import MANIFEST, open_store
from jaxsrc.models.llama_config import read_config
from tests.llamas import make
from torch_bridge.llama import convert, export, load
from torch_bridge.llama_folder import INDEX, KINDS, PIECE, WORKERS, finite, open_folder

HEAD = "lm_head.weight"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf")
    make(folder, "linear, biases", shard="100KB")
    return folder


@pytest.fixture
def copy(source, tmp_path):
    folder = tmp_path / "hf"
    shutil.copytree(source, folder)
    return folder


def rewrite(folder, name, change, file=None):
    """Put another array (None: none) in the place of a tensor."""
    index = json.loads((folder / INDEX).read_text())
    path = folder / (file or index["weight_map"][name])
    tensors = load_file(path)
    value = change(tensors.get(name))
    tensors.pop(name, None)
    save_file({**tensors, **({} if value is None else {name: value})}, path, metadata={"format": "pt"})
    return path.name


def retell(folder, **change):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def reindex(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def first_shard(folder):
    return sorted(folder.glob("*.safetensors"))[0]


def duplicate(folder):
    index = json.loads((folder / INDEX).read_text())["weight_map"]
    other = next(f for f in set(index.values()) if f != index[HEAD])
    array = load_file(folder / index[HEAD])[HEAD]
    rewrite(folder, HEAD, lambda _: array, other)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def headless(folder):
    file = rewrite(folder, HEAD, lambda _: None)
    if not load_file(folder / file):  # it had a shard of its own
        (folder / file).unlink()
    reindex(folder, lambda m: m.pop(HEAD))


def odd(folder):
    file = json.loads((folder / INDEX).read_text())["weight_map"][HEAD]
    rewrite(folder, "odd", lambda _: np.zeros(2, np.float32), file)
    reindex(folder, lambda m: m.update(odd=file))


WEIGHT = "model.layers.0.mlp.up_proj.weight"
FAULTS = {
    "missing shard": (lambda f: first_shard(f).unlink(), "expected this shard of the index, got none"),
    "extra shard": (lambda f: shutil.copy(first_shard(f), f / "more.safetensors"), "more.safetensors: a shard that the index"),
    "truncated shard": (lambda f: cut(first_shard(f)), "expected a whole safetensors file"),
    "no index": (lambda f: (f / INDEX).unlink(), "expected model.safetensors.index.json beside"),
    "broken index": (lambda f: (f / INDEX).write_text("{"), "expected JSON"),
    "index that disagrees": (lambda f: reindex(f, lambda m: m.update({HEAD: m[WEIGHT], WEIGHT: m[HEAD]})), f"{HEAD}: exp"),
    "duplicate key": (duplicate, f"{HEAD}: expected once"),
    "missing untied head": (headless, f"{HEAD}: expected in the"),
    "unknown key": (odd, "odd: a tensor that this model has not"),
    "wrong shape": (lambda f: rewrite(f, WEIGHT, lambda x: x[1:]), r"expected shape \(96, 64\), got \(95, 64\)"),
    "mixed type": (lambda f: rewrite(f, WEIGHT, lambda x: x.astype(np.float16)), "expected type F32 as the others, got F16"),
    "integers": (lambda f: rewrite(f, WEIGHT, lambda x: x.astype(np.int32)), "expected type F32 as the others, got I32"),
    "other architecture": (lambda f: retell(f, model_type="mistral"), "model_type: expected llama, got 'mistral'"),
    "rope type": (lambda f: retell(f, rope_parameters={"rope_type": "yarn"}), "rope_type: expected one of default, linear"),
    "activation": (lambda f: retell(f, hidden_act="gelu"), "hidden_act: expected silu, got 'gelu'"),
    "kv heads": (lambda f: retell(f, num_key_value_heads=3), "expected a divisor of the 8 heads, got 3"),
    "vocabulary": (lambda f: retell(f, vocab_size=100), "vocab_size: expected at least the tokenizer's"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: expected this file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line_before_any_weight_is_read(fault, copy, monkeypatch):
    break_it, says = FAULTS[fault]
    break_it(copy)
    with pytest.raises(UserError, match=says):
        open_folder(copy)  # headers only
    monkeypatch.undo()


def test_all_faults_come_at_once(copy):
    rewrite(copy, WEIGHT, lambda x: x[1:])
    rewrite(copy, HEAD, lambda x: x[:, 1:])
    with pytest.raises(UserError) as caught:
        open_folder(copy)
    assert len(str(caught.value).splitlines()) == 2


def test_nan_weights_are_named(copy, tmp_path):
    rewrite(copy, WEIGHT, lambda x: np.where(x == x[0, 0], np.nan, x).astype(x.dtype))
    for read in (lambda: load(copy), lambda: convert(copy, tmp_path / "out")):
        with pytest.raises(UserError, match=f"{WEIGHT}: expected finite weights"):
            read()
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_a_conversion_that_fails_leaves_the_one_before_it_whole(copy, tmp_path):
    folder = tmp_path / "ours"
    convert(copy, folder, "int8")
    files = lambda: {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    before = files()
    good = copy.with_name("good")
    shutil.copytree(copy, good)
    rewrite(copy, WEIGHT, lambda x: np.where(x == x[0, 0], np.nan, x).astype(x.dtype))
    with pytest.raises(UserError, match="expected finite weights"):
        convert(copy, folder)
    assert files() == before
    convert(good, folder)
    assert open_store(folder).manifest.storage != "int8"
    assert {p.parts[0] for p in files()} == {MANIFEST, "source", *open_store(folder).manifest.files}


def test_missing_numbers_of_a_scaling_are_named():
    raw = {"model_type": "llama", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1,
           "num_attention_heads": 2, "rope_scaling": {"type": "llama3", "factor": 8.0}}  # fmt: skip
    with pytest.raises(UserError, match="low_freq_factor, high_freq_factor, original_max_position_embeddings"):
        read_config(raw, "config.json")


def test_a_folder_comes_back_byte_for_byte(source, tmp_path):
    convert(source, tmp_path / "ours")
    export(tmp_path / "ours", tmp_path / "back")
    files = sorted(p.name for p in source.iterdir())
    assert files == sorted(p.name for p in (tmp_path / "back").iterdir())
    for name in files:
        assert (source / name).read_bytes() == (tmp_path / "back" / name).read_bytes(), name


def test_storages_are_read_back_as_they_were_written(source, tmp_path):
    tokens = jnp.arange(20)[None]
    wanted = np.asarray(load(source).logits(tokens))
    sizes, errors = {}, {}
    for storage in ("float32", "bfloat16", "int8"):
        folder = tmp_path / storage
        convert(source, folder, storage)
        sizes[storage] = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        found = np.asarray(open_store(folder).model().logits(tokens))
        np.testing.assert_array_equal(found, np.asarray(load(source, storage=storage).logits(tokens)))
        errors[storage] = np.abs(found - wanted).max()
    assert errors["float32"] == 0 < errors["bfloat16"] < wanted.std() / 4
    assert sizes["int8"] < sizes["float32"]
    with pytest.raises(UserError, match="which has lost bits"):
        export(tmp_path / "int8", tmp_path / "back")


def test_packed_int4_reads_back_and_is_small(tmp_path):
    make(tmp_path / "hf", "llama3", intermediate_size=128, dtype="bfloat16")
    convert(tmp_path / "hf", tmp_path / "ours", "int4")
    stored = open_store(tmp_path / "ours")
    arrays = dict(stored.arrays())
    assert arrays["layers.0.up.values"].shape == (128, 32) and arrays["layers.0.up.values"].dtype == np.uint8
    assert arrays["embed"].dtype in (ml_dtypes.bfloat16, np.float32)
    assert np.isfinite(np.asarray(stored.model().logits(jnp.arange(9)[None]))).all()


def test_a_converted_folder_that_was_damaged_is_refused(source, tmp_path):
    convert(source, tmp_path / "ours")
    with pytest.raises(UserError, match=r"expected a converted LLaMA"):
        open_store(source)
    words = tmp_path / "ours" / "source" / "tokenizer.json"
    kept = words.read_text()
    words.write_text(kept + " ")
    with pytest.raises(UserError, match="expected the file that was converted"):
        open_store(tmp_path / "ours")
    words.write_text(kept)
    cut(next((tmp_path / "ours").glob("weights*")))
    with pytest.raises(UserError, match="expected a whole safetensors file"):
        open_store(tmp_path / "ours")


def test_an_8b_folder_would_need_little_host_memory():
    """Bar: at most 2.5 GB beyond the device. Each of WORKERS threads holds one tensor, copied once."""
    from jaxsrc.models.llama import names

    config = read_config({"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8}, "8B")  # fmt: skip
    sizes = [2 * int(np.prod(s)) for s in names(config).values()]
    assert config.parameters == 8_030_261_248 == sum(sizes) // 2
    assert sum(sorted(sizes)[-WORKERS:]) <= 2.5e9


@pytest.mark.parametrize("kind", KINDS)
def test_one_value_that_is_not_finite_is_seen_in_every_type(kind):
    dtype = KINDS[kind].numpy
    array = np.zeros((PIECE + 1, 1), dtype)
    array[0], array[1], array[2] = ml_dtypes.finfo(dtype).max, ml_dtypes.finfo(dtype).min, -0.0
    assert finite(array, kind)
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        array[-1] = bad
        assert not finite(array, kind)
