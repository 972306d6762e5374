"""From candidates to places: significance, chances, weights, and what the gate remembers."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxsrc import gate_config
from jaxsrc.errors import UserError
from jaxsrc.gate_config import (
    DenseGate,
    ImportanceGate,
    InfoBatchGate,
    RandomGate,
    SelectiveBackpropGate,
    SundewGate,
    TopKGate,
    effective,
    sizes,
)
from jaxsrc.gate_select import NEVER, Scorers, choose, remember, start
from jaxsrc.modules.rate_control import EnergyConfig
from jaxsrc.modules.selection import compact, effective_size, everything
from jaxsrc.modules.significance import SignificanceConfig, aged, blend, capped, check, doubtful, of_logits

N, BATCH = 400, 16
LOSSES = jnp.exp(jax.random.normal(jax.random.key(9), (N,)))
TABLE = jnp.stack([LOSSES, LOSSES / 2, LOSSES / 3, LOSSES / 4], 1)
SPREAD = jnp.ones(N)
SCORERS = Scorers(lambda rows: TABLE[rows], lambda rows: TABLE[rows] * 2)
GATES = [
    RandomGate(rate=0.1),
    TopKGate(rate=0.1),
    SelectiveBackpropGate(rate=0.1),
    InfoBatchGate(),
    ImportanceGate(rate=0.1),
    SundewGate(rate=0.1, policy="memory", warmup=0.0, last=0.0),
    SundewGate(rate=0.1, policy="full", warmup=0.0, last=0.0),
    SundewGate(rate=0.1, policy="proxy", warmup=0.0, last=0.0),
    SundewGate(rate=0.1, policy="every_k", warmup=0.0, last=0.0),
]


def known(gate):
    """A state in which every sample was seen at step 0."""
    state = start(gate, N)
    return state._replace(measured=TABLE, noted=jnp.zeros(N, jnp.int32), seen=jnp.zeros(N, jnp.int32), step=jnp.int32(1))


@lru_cache(maxsize=64)
def chooser(gate, found, per_epoch):
    """Compiled: (state, key) -> what is chosen and the state after it; the candidates are the first samples."""
    rows = jnp.arange(found.candidates)
    return jax.jit(lambda state, key: choose(gate, state, rows, SPREAD, SCORERS, found, key, per_epoch))


def one(gate, state, key):
    found = sizes(gate, N, BATCH, 10)
    return chooser(gate, found, N / found.candidates)(state, key)


def many(gate, state, keys, found=None, per_epoch=None):
    """Rows chosen under each of `keys` keys, one after another in one program."""
    found = found or sizes(gate, N, BATCH, 10)
    run = chooser(gate, found, per_epoch or N / found.candidates)
    return jax.lax.map(lambda key: run(state, key)[0], jax.random.split(jax.random.key(0), keys)).rows


def name(gate):
    return f"{gate.kind} {getattr(gate, 'policy', '')}"


def test_measured_parts_are_their_formulas():
    logits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    labels = np.array([0, 3, 6, 2, 2])
    p = scipy.special.softmax(logits, 1)
    y = np.eye(7)[labels]
    right = (p * y).sum(1)
    expected = [-np.log(right), -(p * np.log(p)).sum(1), np.linalg.norm(p - y, axis=1), right * (1 - right)]
    np.testing.assert_allclose(of_logits(jnp.asarray(logits), jnp.asarray(labels)), np.stack(expected, 1), rtol=1e-5)


def test_the_gradient_part_is_the_length_of_the_gradient():
    logits, label = jnp.array([0.3, -1.0, 2.0]), jnp.array(1)
    gradient = jax.grad(lambda z: -jax.nn.log_softmax(z)[label])(logits)
    assert float(of_logits(logits[None], label[None])[0, 2]) == pytest.approx(float(jnp.linalg.norm(gradient)), rel=1e-5)


def test_the_published_significance():
    loss, deviation = jnp.array([1.0, 2.0, 9.0]), jnp.array([1.0, 1.0, 4.0])
    measured = jnp.stack([loss, loss * 0, loss * 0, loss * 0], 1)
    found = blend(measured, deviation, SignificanceConfig(loss=0.7, spread=0.3))
    relative = lambda x: np.clip(x / x.mean(), 0, 2) / 2
    np.testing.assert_allclose(found, 0.7 * relative(np.array(loss)) + 0.3 * relative(np.array(deviation)), rtol=1e-6)


def test_memory_fades_to_the_mean_and_the_unknown_is_average():
    measured, age = jnp.array([[1.0], [3.0], [77.0]]), jnp.array([0.0, 1e6, 0.0])
    np.testing.assert_allclose(aged(measured, age, 5.0, jnp.array([0.0, 0.0, 1.0]))[:, 0], [1, 2, 2], atol=1e-5)


def test_a_cap_is_a_quantile():
    scores = jnp.arange(1.0, 101.0)
    assert float(capped(scores, 0.5).max()) == pytest.approx(50.5)
    np.testing.assert_array_equal(capped(scores, 1.0), scores)


def test_a_label_is_doubted_where_a_sure_model_contradicts_it():
    unsure, sure = jnp.zeros(10), jnp.zeros(10).at[3].set(4.0)
    logits, labels = jnp.stack([unsure, unsure, sure, sure]), jnp.array([3, 0, 3, 0])
    gradient = of_logits(logits, labels)[:, 2]
    assert doubtful(gradient, 1.1, 0.9).tolist() == [False, False, False, True]
    many = jnp.full(100, 1.3) + jnp.arange(100) / 1000
    assert int(doubtful(many, 1.1, 0.2).sum()) == 20  # never more than the share
    assert not doubtful(many, 1.1, 0.0).any()


def test_what_is_in_doubt_is_left_out_after_the_warm_up_and_never_of_an_unbiased_gate():
    contradicted = jnp.arange(N) % 5 == 0
    table = TABLE.at[:, 2].set(jnp.where(contradicted, 1.4, 0.5))
    found = sizes(SundewGate(rate=0.5), N, BATCH, 100)

    def share(step, **fields):
        gate = SundewGate(rate=0.5, warmup=0.2, last=0.2, drop=0.4, age=1e6, fall_back=False, **fields)
        state = known(gate)._replace(measured=table, step=jnp.int32(step))
        return float(contradicted[many(gate, state, 40, found)].mean())

    middle, end = found.steps // 2, found.steps - 1
    assert share(middle) == share(end) == 0
    assert 0.1 < share(1) < 0.3
    assert share(middle, unbiased=True) > 0.1


def test_compaction_keeps_the_best_of_the_active_and_counts():
    scores = jnp.array([5.0, 1.0, 9.0, 3.0, 7.0])
    full = compact(jnp.array([True, True, True, False, True]), scores, 2)
    assert set(full.places.tolist()) == {2, 4} and float(full.overflow) == 2 and float(full.empty) == 0
    part = compact(jnp.array([False, True, False, False, False]), scores, 3)
    assert part.places.tolist()[0] == 1 and part.filled.tolist() == [1, 0, 0]
    none = compact(jnp.zeros(5, bool), scores, 2)
    assert float(none.filled.sum()) == 0 and float(none.empty) == 1


@pytest.mark.parametrize("gate", GATES, ids=name)
def test_each_gate_fills_its_places_and_weighs_them(gate):
    chosen, state = one(gate, known(gate), jax.random.key(0))
    found = sizes(gate, N, BATCH, 10)
    assert found.capacity == BATCH and len(chosen.rows) == BATCH
    assert BATCH - 1 <= float(chosen.selection.filled.sum()) <= BATCH
    assert len(set(chosen.rows.tolist())) >= BATCH - 1
    if not isinstance(gate, ImportanceGate):
        assert float(chosen.weights.sum()) == pytest.approx(1, abs=1e-5)
    after = remember(state, chosen, jnp.ones((BATCH, 4)))
    assert int(after.step) == 2 and int((after.times > 0).sum()) == int(chosen.selection.filled.sum())


@pytest.mark.parametrize("gate", [g for g in GATES if g.kind in ("topk", "selective_backprop", "importance", "sundew")], ids=name)
def test_each_selective_gate_prefers_larger_losses(gate):
    if isinstance(gate, SundewGate):
        weigh = SignificanceConfig(loss=1.0, spread=0.0)
        gate = SundewGate(rate=0.1, policy=gate.policy, warmup=0.0, last=0.0, drop=0.0, significance=weigh)
    state = known(gate)._replace(step=jnp.int32(4))
    candidates = sizes(gate, N, BATCH, 10).candidates
    assert float(LOSSES[many(gate, state, 20)].mean()) > 1.15 * float(LOSSES[:candidates].mean())


@pytest.mark.parametrize(
    "gate",
    [ImportanceGate(rate=0.1, clip=1e9), SundewGate(rate=0.1, unbiased=True, clip=1e9, warmup=0.0, last=0.0)],
    ids=name,
)
def test_the_expected_weighted_gradient_is_the_full_gradient(gate):
    gradients = jax.random.normal(jax.random.key(3), (N, 6)) * LOSSES[:, None]
    candidates = sizes(gate, N, BATCH, 10).candidates
    state = known(gate)

    def estimate(key):
        chosen, _ = one(gate, state, key)
        return (chosen.weights[:, None] * gradients[chosen.rows]).sum(0), effective_size(chosen.weights)

    found, effective_number = jax.lax.map(estimate, jax.random.split(jax.random.key(5), 4000))
    error = np.asarray(found.std(0)) / np.sqrt(len(found))
    distance = np.abs(np.asarray(found.mean(0) - gradients[:candidates].mean(0)))
    assert (distance < 4 * error).all()
    assert 1 < float(effective_number.mean()) <= BATCH
    plain = gradients[one(TopKGate(rate=0.1), state, jax.random.key(0))[0].rows]
    assert (np.abs(np.asarray(plain.mean(0) - gradients[:candidates].mean(0))) > 4 * error).any()  # top-k is not unbiased


def test_infobatch_weighs_what_it_prunes():
    gate = InfoBatchGate(prune=0.5)
    chosen, _ = one(gate, known(gate), jax.random.key(0))
    loss = LOSSES[chosen.rows]
    mean = float(LOSSES[: sizes(gate, N, BATCH, 10).candidates].mean())
    filled = np.asarray(chosen.selection.filled) > 0
    weights, wanted = np.asarray(chosen.weights)[filled], np.where(np.asarray(loss)[filled] < mean, 2.0, 1.0)
    np.testing.assert_allclose(weights / weights.min(), wanted, rtol=1e-5)


def test_first_and_last_steps_draw_uniformly():
    gate = SundewGate(rate=0.1, warmup=0.2, last=0.2, mixed=0.0, drop=0.0, significance=SignificanceConfig(loss=1.0, spread=0.0))
    found = sizes(gate, N, BATCH, 100)

    def mean(step):
        state = known(gate)._replace(step=jnp.int32(step), noted=jnp.full(N, step), seen=jnp.full(N, step))
        return float(LOSSES[many(gate, state, 60, found)].mean())

    plain = float(LOSSES[: found.candidates].mean())
    assert abs(mean(0) / plain - 1) < 0.12 and abs(mean(found.steps - 1) / plain - 1) < 0.12
    assert mean(found.steps // 2) > 1.25 * plain


def test_rests_and_probes():
    seen = jnp.where(jnp.arange(N) < 80, 99, 0)
    weigh = SignificanceConfig(loss=1.0, spread=0.0)
    common = {"rate": 0.1, "mixed": 0.0, "temperature": 0.05, "drop": 0.0, "warmup": 0.0, "last": 0.0, "significance": weigh}
    state = known(SundewGate())._replace(step=jnp.int32(100), seen=seen, noted=jnp.full(N, 100))
    found = gate_config.Sizes(160, BATCH, 160.0, 1000)
    share = lambda gate: float((many(gate, state, 40, found, 10.0) >= 80).mean())
    assert share(SundewGate(refractory=1.0, **common)) > 0.98  # the first 80 were trained on a tenth of an epoch ago
    plain = share(SundewGate(**common))
    assert 0.2 < plain < 0.8
    assert share(SundewGate(probe=5.0, **common)) > plain + 0.1  # the others ten epochs ago


def test_every_k_scores_at_its_steps_only_and_keeps_what_it_saw():
    gate = SundewGate(rate=0.1, policy="every_k", every=4, warmup=0.0, last=0.0)
    state = start(gate, N)
    chosen, after = one(gate, state, jax.random.key(0))
    assert float(chosen.scored) == sizes(gate, N, BATCH, 10).candidates
    assert int((after.noted != NEVER).sum()) == sizes(gate, N, BATCH, 10).candidates
    assert float(one(gate, after._replace(step=jnp.int32(1)), jax.random.key(0))[0].scored) == 0


def test_an_energy_account_that_is_empty_selects_nothing_and_says_so():
    gate = SundewGate(rate=0.1, energy=EnergyConfig(cost=10.0, regeneration=(1.0, 1.0)), warmup=0.0, last=0.0)
    state = known(gate)
    state = state._replace(account=state.account._replace(energy=jnp.float32(-1e6)))
    chosen, _ = one(gate, state, jax.random.key(0))
    assert float(chosen.selection.empty) == 1 and float(chosen.weights.sum()) == 0


def test_a_gate_that_would_cost_more_than_it_saves_is_left_out():
    assert isinstance(effective(SundewGate(rate=0.7, policy="full")), DenseGate)
    assert isinstance(effective(SundewGate(rate=0.95, policy="memory")), DenseGate)
    assert isinstance(effective(SundewGate(rate=0.5, policy="full")), SundewGate)
    assert isinstance(effective(SundewGate(rate=0.7, policy="full", fall_back=False)), SundewGate)


def test_sizes_count_epochs_by_what_passes_the_gate():
    dense, tenth = sizes(DenseGate(), 1000, 50, 3), sizes(SundewGate(rate=0.1), 1000, 50, 3)
    assert (dense.steps, dense.candidates, dense.capacity) == (60, 50, 50)
    assert (tenth.steps, tenth.candidates, tenth.capacity) == (6, 500, 50)
    small = sizes(SundewGate(rate=0.01), 1000, 50, 3)  # fewer samples than fill a batch at this rate
    assert (small.candidates, small.capacity) == (1000, 10)
    assert len(everything(7).places) == 7


@pytest.mark.parametrize(
    "gate",
    [
        SundewGate(rate=0.0005),
        SundewGate(rate=0.3, energy=EnergyConfig()),
        SundewGate(significance=SignificanceConfig(loss=0.0, spread=0.0)),
        SundewGate(warmup=0.6, last=0.5),
    ],
)
def test_gates_that_cannot_work_are_refused(gate):
    with pytest.raises(UserError, match=r"expected .* got"):
        gate_config.check(gate, sizes(gate, 1000, 50, 3))


def test_weights_of_nothing_are_refused():
    with pytest.raises(UserError, match="sum above 0"):
        check(SignificanceConfig(loss=0.0, spread=0.0))
    with pytest.raises(UserError, match="at most the 10"):
        sizes(DenseGate(), 10, 50, 1)
