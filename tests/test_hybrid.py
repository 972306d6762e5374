"""The hybrid experiment: samples without answers, features, halting, resuming, what a step holds in memory."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from jaxsrc import hybrid_evaluate, scoring
from jaxsrc.data import arc_text
from jaxsrc.data.arc import Pair, Task
from jaxsrc.data.augment import view_task
from jaxsrc.data.grid_tokens import BORDER, check_grid, decode, encode
from jaxsrc.errors import UserError
from jaxsrc.feature_cache import Cache, Entry, FeatureConfig, Identity, read_features
from jaxsrc.hybrid_data import HybridDataConfig, choose
from jaxsrc.hybrid_experiment import HybridConfig, HybridExperiment, TableConfig, moved
from jaxsrc.models.grid_decoder import GridDecoder, GridDecoderConfig, Latents
from jaxsrc.modules.recursive_block import RecursiveBlock
from jaxsrc.modules.sparse_table import sign_sgd_rows
from jaxsrc.optim import OptimConfig, make_optimizer
from jaxsrc.state import init_state
from jaxsrc.step import train_step

MODEL = GridDecoderConfig(side=5, slots=1, width=32, heads=2, inner=32, h_cycles=2, l_cycles=1, halt_steps=4, remat=False)
DATA = HybridDataConfig(train=3, validate=2, max_side=4, views=2)
OPTIM = OptimConfig(kind="adam_atan2", learning_rate=3e-3, warmup_steps=1, schedule="constant", b2=0.95, clip_norm=0.0)
FEATURES = 16


def grid(rng, h=3, w=4):
    return rng.integers(0, 10, (h, w)).astype(np.uint8)


def tasks(count=5, seed=0):
    """Tasks whose output is the input upside down in new colours; one test pair each."""
    found = []
    for i in range(count):
        rng = np.random.default_rng((seed, i))
        names = rng.permutation(10).astype(np.uint8)
        pairs = [Pair(g := grid(rng), names[g[::-1]]) for _ in range(4)]
        found.append(Task(f"task{i}", "made", tuple(pairs[:3]), tuple(pairs[3:])))
    return found


def experiment(given=None, features="", change="none", table=1e-2, **model):
    made = dataclasses.replace(MODEL, features=FEATURES if features else 0, **model)
    config = HybridConfig(
        data=DATA, model=made, batch=8, steps=30, table=TableConfig(rate=table),
        features=FeatureConfig(cache=features, layer=2, change=change),
    )  # fmt: skip
    found = HybridExperiment(config)
    found.problems = choose(tasks() if given is None else given, DATA)
    return found


def fill(folder, problems, seed=0):
    """A cache with random features of every prompt; a text's features depend on it alone."""
    identity = Identity("llama", "words", 2, FEATURES, "spaced", 8192, False)
    cache = Cache.create(folder, identity)
    for sample in problems.samples:
        written = arc_text.write(sample.shown)
        rng = np.random.default_rng([*written.text.encode(), seed])
        hidden = rng.normal(size=(40, FEATURES)).astype(ml_dtypes.bfloat16)
        cells = np.arange(len(written.cells), dtype=np.int32) + 5
        cache.write(written.text, Entry(hidden, cells))
    return cache


def compiled(made):
    """(function that makes a fresh state, training step)."""
    optimizer = make_optimizer(OPTIM, 1000)
    start = jax.jit(lambda: init_state(made, optimizer, 0, ema=False, scaled=False))
    return start, jax.jit(train_step(made, optimizer, jnp.dtype(jnp.float32), 0.0))


def trained(made, steps, programs=None):
    start, step = programs or compiled(made)
    state, stage, rows = start(), made.stages[0], []
    resident = stage.resident() if stage.resident is not None else ()
    for i in range(steps):
        state, metrics = step(state, stage.batch_at(0, i), resident)
        rows.append({k: s / max(w, 1e-9) for k, (s, w) in jax.device_get(metrics).rows()[0].items()})
    return state, rows


def test_grids_go_to_tokens_and_back():
    for h, w in ((1, 1), (3, 4), (5, 5), (5, 2)):
        g = grid(np.random.default_rng(h), h, w)
        tokens = encode(g, 5)
        np.testing.assert_array_equal(decode(tokens, 5), g)
        assert (tokens == BORDER).sum() == (w if h < 5 else 0) + (h if w < 5 else 0)
    assert decode(np.zeros(25, np.int8), 5).shape == (0, 0)


@pytest.mark.parametrize(
    "bad, says",
    [([[1, 2], [3]], "one length"), ([[1, 12]], "colours 0"), ([[-1]], "colours 0"), (np.zeros((31, 2), int), "sides of")],
)
def test_what_is_no_grid_is_refused(bad, says):
    with pytest.raises(UserError, match=says):
        check_grid(bad)


def test_no_sample_holds_an_answer_that_is_scored():
    made = experiment()
    problems, arrays = made.problems, made.arrays
    scored = [i for i, s in enumerate(problems.samples) if s.scored]
    assert len(scored) == 2 * 2 and not set(scored) & set(np.concatenate(problems.trainable).tolist())
    assert (arrays["labels"][scored] == 0).all()
    for i in range(len(problems.samples)):
        assert problems.samples[i].shown.test[0].output is None


def test_a_view_changes_text_and_grids_together():
    problems = experiment().problems
    for sample in problems.samples:
        seen = view_task(problems.tasks[sample.task], problems.views[sample.view])
        written = arc_text.write(sample.shown)
        digits = [written.text[i] for i in written.cells]
        assert digits == [str(c) for c in seen.pairs[sample.pair].input.ravel()]
        shown = sum(str(arc_text.rows(p.input, "spaced")) in written.text for p in seen.train)
        assert shown == len(seen.train)  # as a demonstration or as the question
        wanted = arc_text.rows(seen.pairs[sample.pair].output, "spaced")
        assert f"\nOutput\n{wanted}" not in written.text


def test_changing_a_scored_label_changes_no_prediction(tmp_path):
    given = tasks()
    held = choose(given, DATA).tasks[3:]
    ids = {t.id for t in held}
    other = [
        Task(t.id, t.source, t.train, tuple(Pair(p.input, 9 - p.output) for p in t.test)) if t.id in ids else t for t in given
    ]
    found = []
    fill(tmp_path, experiment(given).problems)
    versions = [experiment(version, str(tmp_path), conditioning="cross", latents=4) for version in (given, other)]
    programs, versions[1]._predict = compiled(versions[0]), versions[0]._predict  # the same programs on other data
    for made in versions:
        assert {t.id for t in made.problems.tasks[3:]} == ids
        state, _ = trained(made, 3, programs)
        made.take(state.carry)
        found.append(made.predict(state.params, range(len(made.problems.samples))))
    np.testing.assert_array_equal(found[0].tokens, found[1].tokens)
    np.testing.assert_array_equal(found[0].halt, found[1].halt)
    truths = [[t.test[0].output for t in version if t.id in ids] for version in (given, other)]
    assert not any(np.array_equal(a, b) for a, b in zip(*truths, strict=True))


def test_with_gates_at_zero_conditioning_is_plain_trm(tmp_path):
    plain = experiment()
    fill(tmp_path, plain.problems)
    batch, key = plain._batch_at(0, 0), jax.random.key(1)

    def run(made):
        return jax.jit(jax.value_and_grad(lambda p, c, b: made.loss(p, c, b, key, train=True), has_aux=True))

    plainly = run(plain)
    for conditioning in ("pooled", "aligned", "cross"):
        made = experiment(features=str(tmp_path), conditioning=conditioning, latents=4)
        params, carry = jax.jit(made.init)(jax.random.key(0))
        given = {**batch, **jax.tree.map(jnp.asarray, made.features.arrays())}
        (loss, (_, after)), gradient = run(made)(params, carry, given)
        simple = {k: v for k, v in params.items() if k not in ("project", "resample")}
        simple["blocks"] = {i: {k: v for k, v in b.items() if k not in ("cross", "gate")} for i, b in params["blocks"].items()}
        (wanted, (_, same)), _ = plainly(simple, carry, batch)
        np.testing.assert_allclose(after["latents"]["y"], same["latents"]["y"], atol=1e-6)
        np.testing.assert_allclose(loss, wanted, rtol=1e-6)
        found = [x for path, x in jax.tree_util.tree_leaves_with_path(gradient) if "gate'" in str(path[-1])]
        assert found and all(float(jnp.abs(g)) > 0 for g in found)  # and the gates open


def test_a_block_with_its_gate_at_zero_is_the_block_without_it():
    with_cross, without = (
        RecursiveBlock(32, 2, 32, nnx.Rngs(0), mixer="attention", mixed=32, tokens=26, cross=c) for c in (True, False)
    )
    with_cross.attention, with_cross.mlp = without.attention, without.mlp
    x, latents = jax.random.normal(jax.random.key(0), (2, 26, 32)), jax.random.normal(jax.random.key(1), (2, 4, 32))
    np.testing.assert_array_equal(with_cross(x, None, latents), without(x, None, None))
    with_cross.gate[...] = jnp.ones(())
    assert float(jnp.abs(with_cross(x, None, latents) - without(x, None, None)).max()) > 0.1


def test_ablations_change_the_features_and_nothing_else(tmp_path):
    problems = experiment().problems
    fill(tmp_path, problems)
    told = FeatureConfig(cache=str(tmp_path), layer=2)
    read = lambda change: read_features(dataclasses.replace(told, change=change), problems, 5, FEATURES, "cross")
    plain, zero, mixed = (read(c).arrays() for c in ("none", "zeroed", "shuffled"))
    assert plain["hidden"].any() and not zero["hidden"].any()
    np.testing.assert_array_equal(plain["tokens"], zero["tokens"])
    owners = {x.tobytes(): s.task for x, s in zip(plain["hidden"], problems.samples, strict=True)}
    assert all(owners[x.tobytes()] != s.task for x, s in zip(mixed["hidden"], problems.samples, strict=True))


def test_training_learns_and_voting_counts_views():
    made = experiment()
    state, rows = trained(made, 60)
    assert np.mean([r["loss"] for r in rows[-5:]]) < 0.9 * rows[0]["loss"]
    made.take(state.carry)
    measured = hybrid_evaluate.measure(made, state.params)
    assert set(measured) >= {"val/train_exact", "val/exact", "val/shape", "val/cells", "val/steps"}
    ranked = hybrid_evaluate.answers(made, state.params, range(3))
    again = hybrid_evaluate.answers(made, state.params, range(3))
    for a, b in zip(ranked["decoder, voted"], again["decoder, voted"], strict=True):
        assert len(a) <= DATA.views and all(np.array_equal(x[0], y[0]) for x, y in zip(a, b, strict=True))
    a, b = np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)
    assert [c.votes for c in hybrid_evaluate.vote([a, b, b], [9.0, -9.0, -9.0])] == [2, 1]
    assert hybrid_evaluate.vote([a, b], [-1.0, 1.0])[0].grid is b


def test_a_row_takes_new_data_only_after_it_halted():
    made = experiment(explore=0.0)
    start, step = compiled(made)
    state = start()
    for i in range(6):
        before = jax.device_get(state.carry)
        batch = made._batch_at(0, i)
        state, _ = step(state, batch)
        after = jax.device_get(state.carry)
        wanted = np.where(before["halted"], batch["sample"], before["row"]["sample"])
        np.testing.assert_array_equal(after["row"]["sample"], wanted)
        np.testing.assert_array_equal(after["steps"], np.where(before["halted"], 0, before["steps"]) + 1)
        assert (after["halted"] >= (after["steps"] >= MODEL.halt_steps)).all()


def test_early_halting_keeps_the_answer_of_its_step():
    late, early = experiment(), experiment()
    early.config = dataclasses.replace(early.config, early_halt=True)
    params, carry = jax.jit(late.init)(jax.random.key(0))
    for made in (late, early):
        made.take(carry)
    sure = {**params, "q": {"kernel": params["q"]["kernel"], "bias": jnp.full(2, 5.0)}}
    assert (late.predict(sure, [0, 1]).steps == MODEL.halt_steps).all()
    assert (early.predict(sure, [0, 1]).steps == 1).all()
    assert (early.predict(params, [0, 1]).steps == MODEL.halt_steps).all()


def test_correction_sees_the_models_own_last_answer_and_no_label():
    made = experiment(correction=True)
    params, carry = jax.jit(made.init)(jax.random.key(0))
    params = {**params, "own_gate": jnp.float32(1.0)}
    batch = made._batch_at(0, 0)
    other = {**batch, "labels": np.roll(batch["labels"], 1, 1)}
    key = jax.random.key(1)
    carry = {**carry, "halted": jnp.zeros(8, bool)}  # rows at work, so that `own` counts
    run = jax.jit(lambda own, b: made.loss(params, {**carry, "row": b, "own": own}, b, key, train=False)[1][1]["latents"]["y"])
    blank, said = jnp.full((8, 25), -1, jnp.int8), jnp.full((8, 25), 3, jnp.int8)
    np.testing.assert_array_equal(run(said, batch), run(said, other))
    assert float(jnp.abs(run(said, batch) - run(blank, batch)).max()) > 1e-3


def test_only_the_last_cycle_has_a_gradient_and_little_is_kept():
    """Bar: temporaries of a step at most a third of the unrolled form's."""
    def memory(remat, unroll):
        config = GridDecoderConfig(side=11, slots=1, width=64, heads=4, inner=128, l_cycles=4, remat=remat, unroll=unroll)
        made = HybridExperiment(HybridConfig(data=dataclasses.replace(DATA, max_side=10), model=config, batch=8))
        params, carry = jax.eval_shape(made.init, jax.random.key(0))
        run = jax.jit(jax.grad(lambda p, c, b, k: made.loss(p, c, b, k, train=True)[0]))
        return run.lower(params, carry, made.abstract_batch(0), jax.random.key(0)).compile().memory_analysis().temp_size_in_bytes

    assert memory(True, False) <= memory(False, True) / 3


def test_cycles_without_a_gradient_pass_none():
    """The gradient in x of the whole equals that of the last cycle alone, started where the others ended."""
    long = GridDecoder(dataclasses.replace(MODEL, h_cycles=3), nnx.Rngs(0))
    short = GridDecoder(dataclasses.replace(MODEL, h_cycles=1), nnx.Rngs(0))
    before = GridDecoder(dataclasses.replace(MODEL, h_cycles=2), nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (2, 26, 32))
    start = Latents(jnp.ones((2, 26, 32)), jnp.ones((2, 26, 32)))
    middle = jax.jit(lambda x: before._recurse(x, None, start))(x)
    whole = jax.jit(jax.grad(lambda x: long._recurse(x, None, start).y.sum()))(x)
    last = jax.jit(jax.grad(lambda x: short._recurse(x, None, middle).y.sum()))(x)
    np.testing.assert_allclose(whole, last, atol=1e-5)


def test_only_rows_in_the_batch_change_in_the_table():
    table = jax.random.normal(jax.random.key(0), (6, 4))
    gradients = jnp.array([[1.0, -1, 0, 2], [-3, -1, 0, 1], [1, 1, 1, 1]])
    found = sign_sgd_rows(table, jnp.array([2, 2, 5]), gradients, 0.1, 0.5)
    np.testing.assert_array_equal(found[jnp.array([0, 1, 3, 4])], table[jnp.array([0, 1, 3, 4])])
    np.testing.assert_allclose(found[2], table[2] * 0.95 - 0.1 * jnp.array([-1, -1, 0, 1]), rtol=1e-6)


def test_translation_moves_grids_and_cells_together():
    g = grid(np.random.default_rng(0))
    shift = np.array([[1, 0], [0, 1]], np.int32)
    shifted = moved(jnp.asarray(np.stack([encode(g, 5)] * 2)).astype(jnp.int32), jnp.asarray(shift), 0).reshape(2, 5, 5)
    np.testing.assert_array_equal(shifted[0, 1:4, :4], g + 2)
    np.testing.assert_array_equal(shifted[1, :3, 1:5], g + 2)


def test_a_run_resumed_from_its_checkpoint_has_the_same_numbers(tmp_path):
    from jaxsrc.loop import TrainConfig
    from jaxsrc.plan import Plan
    from jaxsrc.runtime import RuntimeConfig
    from jaxsrc.train import run

    class Stops(HybridExperiment):
        """Fails where the ninth batch is asked for."""

        last = 12

        def _batch_at(self, seed, step):
            if step >= self.last:
                raise RuntimeError("stopped here")
            return super()._batch_at(seed, step)

    def go(folder, last):
        made = Stops(dataclasses.replace(experiment().config, steps=12))
        made.last, made.problems = last, choose(tasks(), DATA)
        optim = dataclasses.replace(OPTIM, ema=0.9)
        runtime = RuntimeConfig(device="cpu", compile_cache=str(tmp_path / "xla"))
        train = TrainConfig(log_every=2, checkpoint_every=4, eval_every=0)
        return run(Plan("h", 0, made, optim, train, runtime, {}), folder, quiet=True)

    whole = go(tmp_path / "a", 12)[1]
    with pytest.raises(RuntimeError, match="stopped here"):
        go(tmp_path / "b", 9)
    again = go(tmp_path / "b", 12)[1]
    for a, b in zip(jax.tree.leaves(jax.device_get(whole)), jax.tree.leaves(jax.device_get(again)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_baselines_stand_beside_and_padding_scores_nothing():
    made = experiment()
    task = made.problems.tasks[0]
    empty = hybrid_evaluate.padding(task)
    assert scoring.score(task, empty).hits2 == 0 and scoring.score(task, empty).cells == 0
    assert 0 < hybrid_evaluate.canvas_share(task, empty[0], 5) < 1  # and yet "right" on much of the canvas
    assert SimpleNamespace(**hybrid_evaluate.PLAIN).__dict__.keys() >= {"copy the input", "all padding"}


@pytest.mark.parametrize("conditioning", ["none", "cross"])
def test_half_precision_keeps_every_type_of_the_state(conditioning, tmp_path):
    plain = experiment()
    fill(tmp_path, plain.problems)
    features = str(tmp_path) if conditioning == "cross" else ""
    made = experiment(features=features, conditioning=conditioning, latents=4, correction=True)
    optimizer = make_optimizer(OPTIM, 1000)
    state = jax.eval_shape(lambda: init_state(made, optimizer, 0, ema=True, scaled=False))
    resident = made.stages[0].resident_shapes
    for dtype in (jnp.bfloat16, jnp.float16):
        after, _ = jax.eval_shape(train_step(made, optimizer, jnp.dtype(dtype), 0.9), state, made.abstract_batch(0), resident)
        kinds = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
        assert kinds(after) == kinds(state)
