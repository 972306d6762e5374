"""Training through a gate with the engine: gate state in the checkpoint, one compilation, costs measured, other data."""

import json
import shutil

import jax
import numpy as np
import pytest

from jaxsrc import config as configuration
from jaxsrc import evaluate
from jaxsrc.bench_gate import interval, paired
from jaxsrc.errors import ConfigError, UserError
from jaxsrc.experiment import RunConfig, build, with_batch
from jaxsrc.gate_arms import Result
from jaxsrc.gate_config import DenseGate, SundewGate
from jaxsrc.gate_cost import Cost
from jaxsrc.gate_report import bookkeeping
from jaxsrc.plots.gate_dashboard import by_epoch
from jaxsrc.runs import open_run
from jaxsrc.train import main, plan_of, run
from torch_bridge.of_run import exportable
from torch_bridge.parity import parity

SMALL = [
    "experiment.model.width=8",
    "experiment.model.heads=2",
    "experiment.model.hidden=8",
    "experiment.model.layers=2",
    "experiment.model.exit_layer=1",
    "experiment.model.patch=4",
    "experiment.data.examples=200",
    "experiment.batch=8",
    "experiment.steps=24",
    "optim.warmup_steps=2",
    "train.log_every=4",
    "train.checkpoint_every=9",
    "train.eval_every=12",
    "gate.warmup=0.1",
]
CONFIG = "configs/digits_sundew.yaml"


def lines(folder):
    rows = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in r.items() if k != "t"} for r in rows]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("gated")
    code, state = run(plan_of(CONFIG, SMALL), out, quiet=True)
    assert code == 0
    return out, state


def test_a_run_ends_with_its_pictures_and_its_costs(trained, capsys):
    out, state = trained
    for name in ("dashboard", "data_flow"):
        assert (out / "pictures" / f"{name}.png").stat().st_size > 10_000
        assert "<svg" in (out / "pictures" / f"{name}.svg").read_text()[:600]
    facts = json.loads((out / "gate.json").read_text())
    assert facts["rate"] == pytest.approx(0.1, rel=0.02) and facts["seconds"] > 0 and facts["scored"] == 0
    assert facts["saved"] == pytest.approx(0.9, abs=0.01)
    gate = state.carry
    assert int(gate.step) == 24 and float(gate.trained) == pytest.approx(24 * 8, abs=3)
    assert int((gate.times > 0).sum()) == int((gate.seen >= 0).sum()) > 50
    assert evaluate.main([str(out)]) == 0
    assert "most frequent" in capsys.readouterr().out


def test_what_was_trained_behind_a_gate_has_its_twin(trained):
    made = exportable(open_run(trained[0]))
    assert made.name == "vit" and made.metadata["sheaf.step"] == "24"
    (inputs, label), *_ = made.samples(2)
    assert inputs["pixels"].shape == (1, 8, 8, 1) and 0 <= label[0] < 10
    parity(made, inputs).require()


def test_a_run_stopped_within_an_epoch_goes_on_to_the_same_numbers(trained, tmp_path):
    whole, state = trained
    first = plan_of(CONFIG, SMALL)
    run(first, tmp_path, budget=1e-6, quiet=True)  # stops after a call, saves, and is started again
    stopped = [r["step"] for r in lines(tmp_path)]
    assert not stopped or max(stopped) < 24
    code, again = run(plan_of(CONFIG, SMALL), tmp_path, quiet=True)
    assert code == 0
    assert lines(tmp_path) == lines(whole)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("gate", ["dense", "rs2", "infobatch", "topk", "selective_backprop", "importance", "random"])
def test_every_arm_is_a_configuration(gate):
    overrides = [o for o in SMALL if not o.startswith("gate")] + [f"gate={gate}"]
    experiment = build(configuration.load(RunConfig, CONFIG, overrides))
    batch = experiment.batch_at(0, 0)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    assert shapes == experiment.abstract_batch(0)
    abstract = {**shapes, **experiment.stages[0].resident_shapes}
    params, carry = jax.eval_shape(experiment.init, jax.random.key(0))
    step = lambda p, c, b: experiment.loss(p, c, b, jax.random.key(0), train=True)
    loss, (metrics, after) = jax.eval_shape(step, params, carry, abstract)
    assert loss.shape == () and {"rate", "scored", "empty", "over_capacity", "doubted", "effective"} <= set(metrics)
    assert jax.tree.structure(after) == jax.tree.structure(carry)


def test_resident_arrays_are_what_was_announced():
    experiment = build(configuration.load(RunConfig, CONFIG, SMALL))
    stage = experiment.stages[0]
    found = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), stage.resident())
    assert found == dict(stage.resident_shapes)


def test_candidates_go_through_every_sample_before_any_comes_again():
    experiment = build(configuration.load(RunConfig, CONFIG, SMALL))
    rows = np.concatenate([experiment.batch_at(3, i)["candidates"] for i in range(5)])  # 5 x 80 of 200
    assert sorted(rows[:200]) == list(range(200)) == sorted(rows[200:400])
    fixed = [o for o in SMALL if not o.startswith("gate")] + ["gate={kind: random, rate: 0.1, subset: fixed}"]
    experiment = build(configuration.load(RunConfig, CONFIG, fixed))
    rows = np.concatenate([experiment.batch_at(3, i)["candidates"] for i in range(10)])
    assert len(set(rows)) == 20


def test_the_gate_works_on_text(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the quick brown fox jumps over the lazy dog. " * 400)
    small = [
        f"experiment.data.source={tmp_path / 'a.txt'}",
        *("experiment.model.length=16", "experiment.model.width=8", "experiment.model.layers=1", "experiment.model.heads=2"),
        *("experiment.batch=4", "experiment.steps=6", "optim.warmup_steps=1", "train.eval_every=0", "train.best=''"),
        *("experiment.model.alpha={kind: linear, low: 0.1, high: 0.7}", "train.checkpoint_every=3"),
    ]
    out = tmp_path / "run"
    gate = "gate={kind: sundew, rate: 0.2, significance: {loss: 1.0, spread: 0.0, uncertainty: 0.0}}"
    code, state = run(plan_of("configs/text_laptop.yaml", [*small, gate]), out, quiet=True)
    assert code == 0 and float(state.carry.trained) == 24
    assert json.loads((out / "gate.json").read_text())["rate"] == pytest.approx(0.2)
    assert evaluate.main([str(out), "--limit", "4"]) == 0
    shutil.rmtree(out / "checkpoints" / "6")
    made = exportable(open_run(out))  # alpha stands at the end of its schedule throughout
    assert made.metadata["sheaf.step"] == "3" and json.loads(made.metadata["sheaf.alphas"]) == {"alpha of block 0": "0.7"}
    parity(made, made.samples(1)[0][0]).require()


def test_bad_gates_are_one_line_each(tmp_path, capsys):
    cases = {
        "gate.rate=1.5": "gate.rate",
        "gate.rate=0": "gate.rate",
        "gate.rate=0.0001": "at least one of the 1437",
        "gate.significance={uncertainty: 0.0, loss: 0.0, spread: 0.0}": "sum above 0",
        "gate.policy=prxy": "gate.policy",
        "gate=sundow": "gate",
        "experiment.model.patch=3": "model.patch",
        "experiment.data.source=cifar10": "got neither",
    }
    for override, said in cases.items():
        with pytest.raises((UserError, ConfigError), match=said):
            main([CONFIG, override, "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="kind depth"):
        main(["configs/depth_pilot.yaml", "gate=sundew", "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="expected one run, got a sweep"):
        main(["configs/text_sweep.yaml", "gate=sundew", "--out", str(tmp_path / "x")])
    with pytest.raises(UserError, match="early head"):
        main([CONFIG, "gate.policy=proxy", "experiment.model.exit_layer=0", "--out", str(tmp_path / "x")])


def test_a_dry_run_reads_no_pictures(capsys):
    assert main(["configs/cifar10_vit_original.yaml", "experiment.data.folder=/nowhere", "--dry-run"]) == 0
    assert "3,195,146" in capsys.readouterr().out


def test_fallback_and_batch_sizes():
    config = configuration.load(RunConfig, CONFIG, ["gate.policy=full", "gate.rate=0.8"])
    experiment = build(config)
    assert isinstance(experiment.gate, DenseGate) and isinstance(experiment.asked, SundewGate)
    assert build(with_batch(config, 16)).sizes.capacity == 16


def test_what_is_saved_is_counted_and_the_published_account_stands_beside_it():
    cost = Cost(1.0, 1.0, 1.0, 3.0, train_flops=3.0, score_flops=1.0)
    assert cost.saved(100, 6, 100) == pytest.approx(1 - (18 + 100) / 300)  # a forward pass of all leaves 2.5 times at best
    assert bookkeeping(0.06) == pytest.approx(0.9306) and cost.speedup == 3.0
    at, values, width = by_epoch(np.array([10, 20, 30, 40]), np.array([1.0, 2.0, 3.0, 4.0]), 20)
    assert at.tolist() == [1, 2] and values.tolist() == [1.5, 3.5] and width < 1


def test_intervals_are_paired_by_seed():
    make = lambda arm, seed, accuracy: Result(arm, "b", 0.0, seed, 1, accuracy, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0)
    results = [make("a", s, 0.5 + 0.1 * s) for s in range(3)] + [make("b", s, 0.4 + 0.1 * s) for s in range(3)]
    mean, low, high = paired(results, "a", "b")
    assert mean == pytest.approx(0.1) and low == pytest.approx(high)
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2 and high - mean == pytest.approx(4.303 / 3**0.5, rel=1e-3)
