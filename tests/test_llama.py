"""LLaMA against transformers on magnified weights, where every known converter bug shows."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxsrc.models import llama as model_file
from jaxsrc.models.llama import Llama, assemble
from jaxsrc.modules import rotary
from jaxsrc.modules.quantized import dense, int4, int8, product
from jaxsrc.modules.rotary_scaling import Scaling, frequencies
from tests.llamas import LENGTH, VARIANTS, make
from torch_bridge.llama_folder import open_folder
from torch_bridge.tiny_llama import older_dialect

BAR = 1e-5


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """variant -> (folder, transformers' model, tokens, its float32 logits), made once."""
    kept = {}

    def get(variant):
        if variant not in kept:
            folder = tmp_path_factory.mktemp("llama")
            theirs = make(folder, variant).eval()
            tokens = np.random.default_rng(0).integers(0, 512, (1, LENGTH))
            with torch.no_grad():
                kept[variant] = folder, theirs, tokens, theirs(torch.from_numpy(tokens)).logits.numpy()
        return kept[variant]

    return get


def ours(folder, tokens, change=None, weights=None):
    opened = open_folder(folder)
    config = dataclasses.replace(opened.config, **(change or {}))
    flat = opened.load()
    with jax.default_matmul_precision("highest"):
        return np.asarray(Llama(config, assemble((weights or (lambda f, c: f))(flat, config))).logits(jnp.asarray(tokens)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_transformers_in_both_dialects(variant, made, tmp_path):
    folder, _, tokens, wanted = made(variant)
    assert wanted.std() > 0.2  # large enough to see a difference in
    assert np.abs(ours(folder, tokens) - wanted).max() <= BAR
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    older_dialect(tmp_path)
    assert open_folder(tmp_path).config == open_folder(folder).config


def interleaved(q, theta):
    """The other layout of rotary pairs, which Hugging Face's weights are not made for."""
    cos, sin = jnp.cos(theta)[..., None, :], jnp.sin(theta)[..., None, :]
    a, b = q[..., ::2], q[..., 1::2]
    return jnp.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(q.shape)


def swapped(flat, config):
    return {k.replace("gate", "GATE").replace("up", "gate").replace("GATE", "up"): v for k, v in flat.items()}


def blind(flat, config):
    return {k: jnp.ones_like(v) if "norm" in k else v for k, v in flat.items()}


def tiled(flat, config):
    """Key heads in the order that tiling instead of repeating would give them."""
    def turn(v):
        heads = v.reshape(-1, config.head_dim, config.width)
        order = np.arange(config.heads) % len(heads)
        return heads[order].reshape(config.heads * config.head_dim, -1)

    return {k: turn(v) if k.endswith((".k", ".v")) else v for k, v in flat.items()}


L3 = Scaling(kind="llama3", factor=32.0, low=1.0, high=4.0, original=256)
BUGS = {
    "no scaling": {"change": {"scaling": Scaling()}},
    "factor 8 instead of 32": {"change": {"scaling": dataclasses.replace(L3, factor=8.0)}},
    "original context hard-coded": {"change": {"scaling": dataclasses.replace(L3, original=8192)}},
    "epsilon 1e-6": {"change": {"epsilon": 1e-6}},
    "theta 10000": {"change": {"theta": 10_000.0}},
    "interleaved rotation": {"patch": (rotary, "rotate", interleaved)},
    "tiled key heads": {"weights": tiled, "change": {"kv_heads": 8}},
    "gate and up swapped": {"weights": swapped},
    "gelu instead of silu": {"patch": (model_file.jax.nn, "silu", jax.nn.gelu)},
    "norm weights ignored": {"weights": blind},
}


@pytest.mark.parametrize("bug", BUGS)
def test_each_known_converter_bug_is_seen(bug, made, monkeypatch):
    folder, _, tokens, wanted = made("llama3.2, tied")
    told = BUGS[bug]
    if "patch" in told:
        monkeypatch.setattr(*told["patch"])
        jax.clear_caches()
    found = ours(folder, tokens, told.get("change"), told.get("weights"))
    if "patch" in told:
        monkeypatch.undo()
        jax.clear_caches()
    assert np.abs(found - wanted).max() > 100 * BAR


def test_frequencies_are_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}  # fmt: skip
    wanted, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(head_dim=128, rope_parameters=rope), torch.device("cpu"))
    found = frequencies(128, 5e5, Scaling(kind="llama3", factor=8.0))
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-6)


def test_bfloat16_is_as_near_as_transformers_own(made):
    folder, theirs, tokens, wanted = made("llama3.2, tied")
    with torch.no_grad():
        half = copy.deepcopy(theirs).to(torch.bfloat16)(torch.from_numpy(tokens)).logits.float().numpy()
    opened = open_folder(folder)
    found = Llama(opened.config, assemble(opened.load("bfloat16")), jnp.bfloat16).logits(jnp.asarray(tokens))
    error = lambda x: float(np.sqrt(((x - wanted) ** 2).mean()))
    assert error(np.asarray(found, np.float32)) <= 1.15 * error(half)


def test_padding_on_either_side_changes_nothing(made):
    folder, _, tokens, wanted = made("llama3.1")
    opened = open_folder(folder)
    model = Llama(opened.config, assemble(opened.load()))
    short = tokens[:, :40]
    for left, right in ((7, 2), (0, 9)):
        padded = np.pad(short, ((0, 0), (left, right)))
        padding = np.ones(padded.shape, bool)
        padding[:, left : left + 40] = False
        found = model.logits(jnp.asarray(padded), jnp.asarray(padding))[:, left : left + 40]
        np.testing.assert_allclose(found, wanted[:, :40], atol=BAR)


def test_long_prompts_look_in_pieces(made):
    folder, theirs, _, _ = made("llama3.2, tied")
    tokens = np.random.default_rng(1).integers(0, 512, (1, 2 * model_file.CHUNK))
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens)).logits.numpy()
    np.testing.assert_allclose(ours(folder, tokens), wanted, atol=BAR)


def test_generation_with_a_cache_says_what_transformers_says(made):
    folder, theirs, tokens, _ = made("llama3.2, tied")
    prompt = tokens[0, :20]
    with torch.no_grad():
        wanted = theirs.generate(torch.from_numpy(prompt[None]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    opened = open_folder(folder)
    model = Llama(opened.config, assemble(opened.load()))
    assert model.generate(jnp.asarray(prompt), 12) == wanted[0, 20:].tolist()


def test_hidden_states_are_transformers_layer_by_layer(made):
    folder, theirs, tokens, _ = made("llama3.1")
    opened = open_folder(folder)
    model = Llama(opened.config, assemble(opened.load()))
    with torch.no_grad():
        wanted = theirs.model(torch.from_numpy(tokens), output_hidden_states=True).hidden_states
    for layer in (0, 1, -1):  # the last of theirs is after the norm
        found = np.asarray(model.hidden(jnp.asarray(tokens), layer))
        np.testing.assert_allclose(found, wanted[layer].numpy(), atol=BAR)


def test_int8_and_packed_int4_round_to_the_nearest():
    weight = jax.random.normal(jax.random.key(0), (48, 128))
    x = jax.random.normal(jax.random.key(1), (5, 128))
    for make_one, steps, size in ((int8, 127, 1), (int4, 7, 0.5)):
        packed = make_one(weight)
        assert packed.values.nbytes == weight.size * size
        back = dense(packed, jnp.float32)
        scale = packed.scale if packed.scale.ndim == 2 else packed.scale[:, None]
        half = jnp.repeat(scale, weight.shape[1] // scale.shape[1], 1) / 2
        assert (jnp.abs(back - weight) <= half * 1.0001).all()
        assert float(jnp.abs(weight).max()) / steps >= float(half.max()) * 1.999
        np.testing.assert_allclose(product(x, packed), x @ back.T, atol=1e-4)
