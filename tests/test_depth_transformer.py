"""The depth transformer: parameter counts, causality, cache, loops, places, and one compile that overfits one batch."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxsrc import config as configuration
from jaxsrc.data.expression_sampler import SamplerConfig
from jaxsrc.decoding import make_greedy
from jaxsrc.depth_data import DepthDataConfig
from jaxsrc.depth_experiment import DepthConfig, DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig, build
from jaxsrc.models.depth_transformer import DepthTransformer, DepthTransformerConfig, places_of
from jaxsrc.modules.attention import nearest
from jaxsrc.modules.taps import Taps
from jaxsrc.state import count, init_state, leaf_table
from jaxsrc.step import CompiledOnce, train_step

GOLDEN = Path(__file__).parent / "golden" / "depth_transformer.json"
TINY = DepthTransformerConfig(width=16, layers=2, heads=2, hidden=16, length=24, dropout=0.0, places=6)


def made(config=TINY, vocabulary=21, scale=0.3):
    """A model whose weights are large enough that every part matters."""
    model = DepthTransformer(config, vocabulary, nnx.Rngs(0))
    graph, params = nnx.graphdef(model), nnx.to_pure_dict(nnx.state(model, nnx.Param))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return graph, jax.tree.unflatten(tree, moved)


def tokens(b=3, n=8, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(4, 21, (b, n)), jnp.int32)


@pytest.mark.parametrize("name, wanted", [("depth_pilot", 664_192), ("depth_10m", 10_651_776)])
def test_the_studys_models_have_exactly_their_parameters(name, wanted):
    experiment = build(configuration.load(RunConfig, f"configs/{name}.yaml"))
    params = jax.eval_shape(lambda: experiment.init(jax.random.key(0))[0])
    assert count(params) == wanted


def test_the_parameter_tree_is_the_stored_one():
    experiment = build(configuration.load(RunConfig, "configs/depth_pilot.yaml"))
    found = leaf_table(jax.eval_shape(lambda: experiment.init(jax.random.key(0))[0]))
    assert found == json.loads(GOLDEN.read_text())


def test_no_logit_sees_a_later_token_but_within_the_prefix():
    graph, params = made()
    model = nnx.merge(graph, params)
    out = lambda x, **more: np.asarray(model(x, **more)[0])
    a = tokens()
    b = a.at[:, 5].set((a[:, 5] - 3) % 17 + 4)
    same = np.isclose(out(a), out(b), atol=1e-6).all(-1)
    assert same[:, :5].all() and not same[:, 5:].any()
    prefix = jnp.array([6, 5, 0])
    same = np.isclose(out(a, prefix=prefix), out(b, prefix=prefix), atol=1e-6).all(-1)
    assert not same[0].any() and same[1:, :5].all()


@pytest.mark.parametrize("loops", [None, 3])
def test_greedy_decoding_with_a_cache_is_greedy_decoding_without(loops):
    graph, params = made()
    model = nnx.merge(graph, params)
    prompts, lengths = tokens(4, 7, 2), jnp.array([3, 7, 5, 1])
    got = np.asarray(make_greedy(graph, 6, loops)(params, prompts, lengths))
    plain = jax.jit(lambda t: model(t, loops=loops)[0].argmax(-1))
    for row, n, out in zip(np.asarray(prompts), np.asarray(lengths), got, strict=True):
        seen = row[:n].tolist()
        for _ in range(6):
            padded = jnp.array([seen + [0] * (13 - len(seen))])
            seen.append(int(plain(padded)[0, len(seen) - 1]))
            if seen[-1] == 2:
                break
        assert out[: len(seen) - n].tolist() == seen[n:] and not out[len(seen) - n :].any()


def test_looping_goes_through_the_same_weights_again():
    graph, params = made()
    model = nnx.merge(graph, params)
    taps = Taps(keep=["loop0.layer1.output", "loop1.layer0.input"])
    looped = model(tokens(), loops=2, taps=taps)[0]
    taps.check()
    np.testing.assert_array_equal(taps.kept["loop0.layer1.output"], taps.kept["loop1.layer0.input"])
    assert not np.allclose(looped, model(tokens())[0], atol=1e-3)


def test_places_count_digits_within_a_number():
    text = jnp.array([[1, 4, 13, 14, 5, 6, 7, 8, 2, 0]])  # BOS 0 9 + 1 2 3 4 EOS PAD
    assert places_of(text, 3)[0].tolist() == [0, 1, 2, 0, 1, 2, 3, 3, 0, 0]


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(UserError, match="divide"):
        DepthTransformer(DepthTransformerConfig(width=18, heads=4), 35, nnx.Rngs(0))


@pytest.mark.parametrize("track", ["direct", "steps", "rewrite"])
def test_one_batch_is_overfitted_with_one_compile(track):
    sampler = SamplerConfig(depths=(0, 1), operands=(2, 3), numbers=9)
    data = DepthDataConfig(examples=12, sampler=sampler, drills=0 if track == "direct" else 10, drill_digits=3)
    model = DepthTransformerConfig(width=32, layers=2, heads=2, hidden=64, length=40, dropout=0.0, places=6)
    experiment = DepthExperiment(DepthConfig(track=track, data=data, model=model, batch=8, reduce_batch=8, short=(10, 10)))
    batch = experiment.batch_at(0, 0)
    assert jax.tree.map(np.shape, batch) == jax.tree.map(np.shape, experiment.abstract_batch(0))
    optimizer = optax.adam(1e-2)
    state = jax.jit(lambda: init_state(experiment, optimizer, 0, ema=False, scaled=False))()
    step = CompiledOnce(train_step(experiment, optimizer, jnp.dtype("float32"), 0.0), "step", ("state", "batch"), donate=(0,))
    losses = []
    for _ in range(60):
        state, metrics = step(state, jax.tree.map(jnp.asarray, batch))
        rows = jax.device_get(metrics).rows()[0]
        losses.append(rows["loss"][0] / rows["loss"][1])
    assert losses[-1] < 0.3 * losses[0]


def test_tests_are_fresh_and_batches_follow_from_seed_and_step():
    experiment = DepthExperiment(DepthConfig(data=DepthDataConfig(examples=300)))
    again = DepthExperiment(experiment.config)
    jax.tree.map(np.testing.assert_array_equal, experiment.batch_at(1, 7), again.batch_at(1, 7))
    shown = {e.text for e in experiment.training}
    for depth in (0, 2, 5):
        fresh = experiment.tests(depth, 40)
        assert {e.nesting for e in fresh} == {depth} and not {e.text for e in fresh} & shown
        assert fresh != experiment.tests(depth, 40, seed=1)


def test_nearest_attention_takes_the_first_match_on_its_side_and_nothing_beyond_it():
    keys = np.full((1, 6, 2, 1), -20.0, np.float32)
    keys[0, [1, 3, 5]] = 20.0  # three matches
    pattern = np.asarray(nearest(jnp.ones((1, 6, 2, 1)), jnp.asarray(keys), jnp.ones((6, 6), bool)))[0]
    left, right = {2: 1, 3: 1, 4: 3, 5: 3}, {0: 1, 1: 3, 2: 3, 3: 5, 4: 5}
    for head, wanted in ((0, left), (1, right)):
        assert {i: int(row.argmax()) for i, row in enumerate(pattern[head]) if row.sum() > 0.5} == wanted
        assert all(abs(row.sum() - 1) < 1e-3 for i, row in enumerate(pattern[head]) if i in wanted)
    some = np.asarray(nearest(jnp.ones((1, 2, 2, 1)), jnp.asarray(keys), None, jnp.array([[4, 0]])))[0]
    np.testing.assert_allclose(some, pattern[:, [4, 0]], atol=1e-6)


def test_padding_is_nothing_to_the_marks_of_a_text():
    graph, params = made(replace(TINY, marking="nearest"))
    model, row = nnx.merge(graph, params), tokens(2, 9)
    alone = model(row, prefix=jnp.array([9, 9]))[0]
    padded = model(jnp.pad(row, ((0, 0), (0, 5))), prefix=jnp.array([9, 9]))[0]
    np.testing.assert_allclose(padded[:, :9], alone, atol=1e-5)
