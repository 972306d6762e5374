"""The gated language model: causal, cached generation equal to the whole pass, one compile, one batch overfitted."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsrc.config import load
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig, build
from jaxsrc.models.gated_lm import GatedLM, GatedLMConfig, generate, sample
from jaxsrc.modules.gated_units import AlphaConfig
from jaxsrc.modules.taps import Taps
from jaxsrc.state import count, init_state, leaf_table
from jaxsrc.step import CompiledOnce, train_step
from jaxsrc.text_experiment import TextConfig, TextExperiment, measures, next_token

SMALL = GatedLMConfig(vocabulary=17, length=12, width=16, layers=1, heads=2)
GOLDEN = Path(__file__).parent / "golden" / "gated_lm.json"


def tokens(b=3, n=12, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 17, (b, n)), jnp.int32)


@pytest.mark.parametrize("unit", ["paGLU", "paGRU", "mlp"])
def test_no_logit_depends_on_a_later_token(unit):
    model = GatedLM(dataclasses.replace(SMALL, unit=unit), nnx.Rngs(0))
    embedded = model.tokens.embedding[...]
    graph, params = nnx.split(model)

    def logits(noise):
        merged = nnx.merge(graph, params)
        taps = Taps({"embed": lambda x: x + noise})
        return merged(tokens(1), taps=taps)[0]

    jacobian = jax.jit(jax.jacobian(lambda z: logits(z).sum(-1)))(jnp.zeros((1, 12, embedded.shape[1])))[:, 0]
    size = np.abs(jacobian).sum(-1)
    assert np.all(np.triu(size, 1) == 0) and np.all(np.diag(size) > 0)


@pytest.mark.parametrize("unit", ["paGLU", "paGRU", "mlp"])
def test_generation_with_the_cache_equals_the_whole_pass(unit):
    model = GatedLM(dataclasses.replace(SMALL, unit=unit), nnx.Rngs(0))
    prompt = tokens(2, 4)
    found = jax.jit(lambda p: generate(model, p, 8, jax.random.key(0), temperature=0.0))(prompt)
    assert found.shape == (2, 12)
    np.testing.assert_array_equal(found[:, :4], prompt)
    whole = jax.jit(lambda t: model(t))(found)
    np.testing.assert_array_equal(found[:, 4:], whole[:, 3:-1].argmax(-1))
    cached = jax.jit(lambda t: model.extend(t, cache=model.empty(2))[0])(found)
    np.testing.assert_allclose(cached, whole, atol=2e-6)


def test_too_many_tokens_are_refused():
    model = GatedLM(SMALL, nnx.Rngs(0))
    with pytest.raises(UserError, match="at most 12 tokens"):
        model(tokens(1, 13))
    with pytest.raises(UserError, match=r"got 10 \+ 3"):
        generate(model, tokens(1, 10), 3, jax.random.key(0))
    with pytest.raises(UserError, match="divisor of width 16"):
        GatedLM(dataclasses.replace(SMALL, heads=3), nnx.Rngs(0))


def test_sampling_keeps_the_likeliest():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    drawn = jax.vmap(lambda k: sample(logits, k, 1.0, 2)[0])(jax.random.split(jax.random.key(0), 2000))
    shares = np.bincount(np.asarray(drawn), minlength=4) / 2000
    np.testing.assert_allclose(shares, [0.625, 0.375, 0, 0], atol=0.04)
    assert int(sample(logits, jax.random.key(1), 0.0, 0)[0]) == 0


def test_padding_counts_nowhere():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 7)), jnp.float32)
    targets = jnp.asarray([[1, 2, 3, 0, 0], [4, 5, 6, 1, 2]])
    weights = jnp.asarray([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1.0]])
    got = next_token(logits, targets, weights)
    p = jax.nn.log_softmax(logits)
    wanted = -sum(float(p[i, j, targets[i, j]]) for i in range(2) for j in range(5) if weights[i, j])
    assert float(got.targets) == 8
    np.testing.assert_allclose(got.nats, wanted, rtol=1e-6)
    found = measures(8 * math.log(2), 8.0, 4.0, 2.0)
    assert found["bits_per_byte"] == 0.5 and found["accuracy"] == 0.5 and found["perplexity"] == pytest.approx(2)


@pytest.mark.parametrize("alpha", [AlphaConfig(kind="learnable"), AlphaConfig(kind="entropy", low=0.2)])
def test_one_batch_is_overfitted_with_one_compile(alpha):
    model = dataclasses.replace(SMALL, alpha=alpha, unit="paSwishU", gate_norm=True)
    made = TextExperiment(TextConfig(model=model, batch=3, steps=60))
    batch = {"tokens": tokens(3, 13)}
    optimizer = optax.adam(1e-2)
    state = jax.jit(lambda: init_state(made, optimizer, 0, ema=False, scaled=False))()
    step = CompiledOnce(train_step(made, optimizer, jnp.dtype("float32"), 0.0), "step", ("state", "batch"), donate=(0,))
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        value, weight = jax.device_get(metrics).rows()[0]["loss"]
        losses.append(value / weight)
    assert losses[-1] < 0.3 * losses[0]
    assert int(state.carry["step"]) == 60
    if alpha.kind == "learnable":
        assert all(abs(mean - 0.5) > 1e-3 for _, mean, _, _ in made.alphas(state.params))


def test_a_scheduled_alpha_follows_the_carry():
    alpha = AlphaConfig(kind="cosine", low=0.2, high=0.8)
    made = TextExperiment(TextConfig(model=dataclasses.replace(SMALL, alpha=alpha), batch=3, steps=10))
    params, carry = made.init(jax.random.key(0))
    seen, batch = [], {"tokens": tokens(3, 13)}
    step = jax.jit(lambda c: made.loss(params, c, batch, jax.random.key(1), train=True)[1][1])
    for _ in range(11):
        made.take(carry)
        seen.append(made.alphas(params)[0][1])
        carry = step(carry)
    np.testing.assert_allclose(seen, 0.2 + 0.6 * 0.5 * (1 + np.cos(np.pi * np.arange(11) / 10)), atol=1e-6)


@pytest.mark.parametrize("unit", ["paGLU", "mlp"])
def test_what_is_added_to_the_stream_starts_small_in_every_network(unit):
    model = GatedLM(dataclasses.replace(SMALL, unit=unit, width=64, layers=2), nnx.Rngs(0))
    feed = model.blocks[1].feedforward
    inner = feed.up if unit == "mlp" else feed.unit.value
    assert float(feed.down.kernel[...].std()) == pytest.approx(0.02 / 2, rel=0.05)
    assert float(inner.kernel[...].std()) == pytest.approx(0.02, rel=0.05)


def test_half_precision_stays_near():
    model = GatedLM(SMALL, nnx.Rngs(0))
    graph, params = nnx.split(model)
    whole = model(tokens())
    for dtype, bar in ((jnp.bfloat16, 0.03), (jnp.float16, 0.005)):
        half = nnx.merge(graph, jax.tree.map(lambda x, d=dtype: x.astype(d), params))(tokens())
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, whole, atol=bar)


def test_gpt2_small_has_124_million_parameters():
    made = build(load(RunConfig, "configs/text_gpt2_small.yaml"))
    params, _ = jax.eval_shape(made.init, jax.random.key(0))
    assert abs(count(params) / 124.4e6 - 1) < 0.01


def test_the_parameter_tree_is_the_stored_one():
    params, _ = jax.eval_shape(TextExperiment(TextConfig()).init, jax.random.key(0))
    assert leaf_table(params) == json.loads(GOLDEN.read_text())
