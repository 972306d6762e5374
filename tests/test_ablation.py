"""Ablation: a head that alone carries the answer is found, a random model yields nothing, and the scan is the plain loop."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxsrc.analysis.ablate import METHODS, Effects, ablate, first_order, group_difference, make_scan, replacements
from jaxsrc.analysis.depth_subject import depth_rows, depth_subject, transformer_subject
from jaxsrc.analysis.lens import attribution, lens, patterns
from jaxsrc.analysis.subject import Rows, score, values
from jaxsrc.data.expression_study import study_data
from jaxsrc.depth_experiment import DepthConfig, DepthExperiment
from jaxsrc.errors import UserError
from jaxsrc.models.depth_transformer import DepthTransformer, DepthTransformerConfig
from jaxsrc.modules.taps import Taps
from jaxsrc.statistics import rank_correlation

CONFIG = DepthTransformerConfig(width=32, layers=2, heads=4, hidden=32, length=8, dropout=0.0, positions="none")
ASK = 14  # a token that asks for the digit before it


@lru_cache(1)
def shared():
    """One subject for all weights, so that its programs are compiled once."""
    made = DepthTransformer(CONFIG, 16, nnx.Rngs(0))
    return transformer_subject(nnx.graphdef(made), made)


def model(seed=0, scale=0.2):
    made = DepthTransformer(CONFIG, 16, nnx.Rngs(seed))
    params = nnx.to_pure_dict(nnx.state(made, nnx.Param))
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    moved = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return shared(), jax.tree.unflatten(tree, moved), made


def digits(count=96, seed=0):
    """BOS, digit, ask: the digit is the answer at the last token."""
    rng = np.random.default_rng(seed)
    tokens = np.stack([np.ones(count), rng.integers(4, 12, count), np.full(count, ASK)], 1).astype(np.int32)
    labels = np.repeat(tokens[:, 1:2], 3, 1)
    asked = np.tile([False, False, True], (count, 1))
    return Rows(*map(jnp.asarray, (tokens, labels, asked, np.zeros(count, np.int32))))


def planted(layer, head):
    """All attention and feed-forward weights zero, but one head that copies the digit to the token that asks."""
    subject, params, _ = model(scale=0.0)
    params = jax.tree.map(lambda x: np.array(x), params)
    for block in params["layers"].values():
        for part in (block["attention"], block["feedforward"]):
            for one in part.values():
                one["kernel"][:] = 0
    table = np.zeros((16, 32), np.float32)
    table[4:12, :8] = np.eye(8)  # digits
    table[4:12, 8] = 1.0  # is a digit
    table[ASK, 9] = 3.0
    table[1, 10] = 1.0
    params["embedding"]["embedding"] = table
    attention = params["layers"][layer]["attention"]
    at = slice(8 * head, 8 * head + 8)
    attention["q"]["kernel"][9, at] = 4.0
    attention["k"]["kernel"][8, at] = 4.0
    attention["v"]["kernel"][:8, at] = np.eye(8)
    attention["o"]["kernel"][at, :8] = 8 * np.eye(8)
    return subject, jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize("layer, head", [(0, 1), (1, 3)])
def test_the_head_that_carries_the_answer_is_found_and_no_other(layer, head):
    subject, params = planted(layer, head)
    name = subject.units[subject.unit(layer, head)]
    for method in METHODS:
        found = ablate(subject, params, digits(), method)
        assert found.exact.all() and found.findings() == [name] and found.table()[0][0] == name
    parts, error = attribution(subject, params, digits())
    assert parts[0][0] == name and error < 1e-3
    seen = lens(subject, params, digits())
    assert seen.right[layer] < 0.5 and seen.right[layer + 1] == 1.0
    assert patterns(subject, params, digits())[f"layer{layer}"][:, head, 2, 1].min() > 0.9


def test_random_models_yield_no_finding():
    """On real questions, whose answers are several tokens long: a constant answer is never right by chance there."""
    tiny = DepthTransformerConfig(width=16, layers=2, heads=2, hidden=16, length=32, dropout=0.0)
    experiment = DepthExperiment(DepthConfig(model=tiny))
    subject, rows = depth_subject(experiment), depth_rows(experiment, study_data().paren)
    run, found = make_scan(subject), 0
    for seed in range(20):
        params = jax.tree.map(lambda x: 10 * x, experiment.init(jax.random.key(seed))[0])
        shapes = ((2, 8), (16,))
        new = tuple([jnp.zeros((*rows.tokens.shape, *shape)) for _ in range(2)] for shape in shapes)
        loss, exact, loss_without, exact_without = map(np.asarray, run(params, rows, new))
        nothing = np.zeros(len(subject.units), np.float32)
        found += bool(Effects(subject.units, "zero", loss, exact, loss_without, exact_without, nothing).findings())
        assert np.abs(loss_without - loss).max() > 1e-4  # the units did something
    assert found <= 1


@pytest.mark.parametrize("method", METHODS)
def test_the_scan_is_the_loop_that_switches_units_off_one_by_one(method):
    subject, params, made = model(3)
    rows = digits(20)
    new = replacements(subject, params, rows, method)
    loss, _, without, _ = make_scan(subject)(params, rows, new)
    plain, _ = score(made_logits(made, params, rows), rows)
    np.testing.assert_allclose(loss, plain, atol=1e-5)
    for layer in range(2):
        for unit in range(5):
            edits = (
                {f"layer{layer}.attention.heads": lambda v, i=layer, u=unit: v.at[:, :, u].set(new[0][i][:, :, u])}
                if unit < 4
                else {f"layer{layer}.feedforward.out": lambda v, i=layer: new[1][i]}
            )
            alone, _ = score(subject.forward(params, rows, Taps(edits=edits)), rows)
            np.testing.assert_allclose(without[layer * 5 + unit], alone, atol=1e-5)


def made_logits(made, params, rows):
    return nnx.merge(nnx.graphdef(made), params)(rows.tokens)[0]


def test_the_first_order_estimate_ranks_small_changes_as_the_scan_does():
    subject, params, _ = model(5)
    rows = digits(40)
    kept = replacements(subject, params, rows, "resample")
    names = [f"{n}.attention.heads" for n in subject.names], [f"{n}.feedforward.out" for n in subject.names]
    now = values(subject, params, rows, [*names[0], *names[1]])
    step = lambda part, new: [now[n] + 0.01 * (v - now[n]) for n, v in zip(part, new, strict=True)]
    near = tuple(step(part, new) for part, new in zip(names, kept, strict=True))
    loss, _, without, _ = make_scan(subject)(params, rows, near)
    exact = np.asarray((without - loss).mean(1), np.float64)
    assert rank_correlation(exact, first_order(subject, params, rows, near).astype(np.float64)) > 0.95


def test_a_difference_between_groups_is_seen_and_a_null_one_is_not():
    subject, params = planted(0, 2)
    found = ablate(subject, params, digits(), "zero")
    group = np.arange(96) < 48
    object.__setattr__(found, "exact_without", np.where(group, found.exact_without, found.exact))
    table = dict(zip(found.units, group_difference(found, group), strict=True))
    assert table["layer0.head2"][0] > 0.8 and table["layer0.head2"][1] < 0.01 and table["layer1.head0"][1] == 1.0


def test_names_and_numbers_that_do_not_exist_are_refused():
    subject, params, _ = model()
    with pytest.raises(UserError, match="layer from 0 to 1"):
        subject.unit(2, None)
    with pytest.raises(UserError, match="head from 0 to 3"):
        subject.unit(0, 4)
    with pytest.raises(UserError, match="near ones"):
        values(subject, params, digits(4), ["layer9.output"])
