"""A sweep in one program: every run's losses are those of the run alone; diverged runs are frozen; too big a grid is refused."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsrc import config as configuration
from jaxsrc import evaluate, train
from jaxsrc import sweep as sweeps
from jaxsrc.data.text import TextDataConfig
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig
from jaxsrc.leaderboard import entries, interval
from jaxsrc.loop import TrainConfig
from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.optim import OptimConfig
from jaxsrc.plan import Plan, fresh_state, make_step
from jaxsrc.report import records
from jaxsrc.runs import open_run
from jaxsrc.runtime import RuntimeConfig, start
from jaxsrc.sweep import SweepExperiment
from jaxsrc.sweep_config import SweepConfig, members
from jaxsrc.text_experiment import TextConfig, TextExperiment

MODEL = GatedLMConfig(length=16, width=16, layers=1, heads=2)
OPTIM = OptimConfig(warmup_steps=2, learning_rate=1e-2, clip_norm=0.5)
STEPS = 6
GRID = SweepConfig(unit=("paGTU", "paMishU"), alpha=(0.0, "learnable", "cosine"), learning_rate=(1e-2, 3e-3), seed=(0, 5))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    rng = np.random.default_rng(0)
    path.write_text(" ".join(rng.choice(["red", "green", "blue", "fish"], 800)))
    return TextDataConfig(source=str(path), windows=4)


def plan_of(experiment, optim=OPTIM, seed=0):
    runtime = RuntimeConfig(device="cpu", compile_cache="")
    return Plan("test", seed, experiment, optim, TrainConfig(), runtime, {}), start(runtime)


def losses(experiment, optim=OPTIM, seed=0):
    """name -> loss at every step; and the last state."""
    plan, runtime = plan_of(experiment, optim, seed)
    state, step, found = fresh_state(plan, runtime), make_step(plan, runtime), {}
    for at in range(STEPS):
        state, metrics = step(state, jax.tree.map(jnp.asarray, experiment.stages[0].batch_at(seed, at)))
        for name, (value, weight) in jax.device_get(metrics).rows()[0].items():
            found.setdefault(name, []).append(value / weight if weight else np.nan)
    return found, state


@pytest.mark.parametrize("over,rate,checked", [("vmap", 0.0, (3, 22)), ("map", 0.1, (13,))])
def test_every_run_is_the_run_alone(data, over, rate, checked):
    base = dataclasses.replace(MODEL, dropout=rate)
    config = TextConfig(data=data, model=base, batch=2, steps=STEPS, sweep=dataclasses.replace(GRID, over=over))
    sweep = SweepExperiment(config, OPTIM, 0)
    assert len(sweep.members) == 24
    found, state = losses(sweep)
    for index in checked:
        member = sweep.members[index]
        alone = TextExperiment(dataclasses.replace(config, sweep=None, model=member.model(base)))
        single, end = losses(alone, dataclasses.replace(OPTIM, learning_rate=member.learning_rate), member.seed)
        np.testing.assert_allclose(found[f"run/{member.name}"], single["loss"], rtol=2e-5)
        mine = sweep.member_params(state.params, index)
        assert jax.tree.structure(mine) == jax.tree.structure(end.params)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(end.params), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-4)
    curves = np.array([found[f"run/{m.name}"] for m in sweep.members])
    assert len(np.unique(curves[:, -1].round(6))) == 24  # no two runs are the same run


@pytest.mark.parametrize("over", ["vmap", "map"])
def test_a_diverged_run_is_frozen_and_the_others_go_on(data, over):
    sweep = SweepConfig(learning_rate=(1e-2, 1e6), over=over)
    made = SweepExperiment(TextConfig(data=data, model=MODEL, batch=2, steps=STEPS, sweep=sweep), OPTIM, 0)
    found, state = losses(made)
    frozen = np.asarray(state.carry["frozen"])
    assert frozen[0] == -1 and 1 < frozen[1] <= STEPS
    lost = np.isnan(found[f"run/{made.members[1].name}"])
    np.testing.assert_array_equal(lost, np.arange(1, STEPS + 1) >= frozen[1])
    assert np.isfinite(found[f"run/{made.members[0].name}"]).all() and np.isfinite(found["loss"]).all()
    assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(state.params))
    made.take(state.carry)
    shown = made.validate(state.params, 0)
    assert f"val/{made.members[0].name}" in shown and f"val/{made.members[1].name}" not in shown


def test_a_grid_beyond_memory_names_the_estimate_and_what_fits(data, monkeypatch):
    sweep = SweepConfig(seed=tuple(range(100)), over="vmap")
    made = SweepExperiment(TextConfig(data=data, model=MODEL, batch=2, steps=STEPS, sweep=sweep), OPTIM, 0)
    each, _ = made.bytes_needed("cpu")
    monkeypatch.setattr(sweeps, "free_memory", lambda runtime: int(each * 7.5))
    _, runtime = plan_of(made)
    with pytest.raises(UserError, match=r"got 100 runs that need about .* GiB; at most 7 fit"):
        made.check_memory(runtime)
    monkeypatch.setattr(sweeps, "free_memory", lambda runtime: int(each * 101))
    made.check_memory(runtime)


def test_axes_are_checked():
    with pytest.raises(UserError, match="distinct values"):
        members(SweepConfig(seed=(1, 1)), MODEL, 1e-3, 0)
    for twice in (SweepConfig(alpha=(0.5, "fixed")), SweepConfig(alpha=(0.1, 0.10000001))):
        with pytest.raises(UserError, match=r"distinct names, got 'paGLU alpha 0.[15] lr 0.001 seed 0' 2 times"):
            members(twice, MODEL, 1e-3, 0)
    with pytest.raises(UserError, match="parameters of its own"):
        members(SweepConfig(), dataclasses.replace(MODEL, unit="paGRU"), 1e-3, 0)
    with pytest.raises(UserError, match="above 0 and below 1"):
        bad = dataclasses.replace(MODEL.alpha, value=1.0)
        made = TextConfig(model=dataclasses.replace(MODEL, alpha=bad), sweep=SweepConfig(alpha=("learnable",)))
        SweepExperiment(made, OPTIM, 0)
    for text, message in (
        ("experiment.sweep.unit=[paFoo]", "paGLU"),
        ("experiment.sweep.alpha=[1.5]", "less than or equal to 1"),
        ("experiment.model.unit=paFoo", "paGLU"),
    ):
        with pytest.raises(UserError, match=message):
            train.plan_of("configs/text_sweep.yaml", [text])


def test_the_interval_is_students():
    mean, low, high = interval(np.array([1.0, 2.0, 3.0]))
    half = 4.302652729911275 / np.sqrt(3)
    np.testing.assert_allclose([mean, low, high], [2, 2 - half, 2 + half])


def test_the_leaderboard_orders_settings_and_says_what_varies(data):
    sweep = SweepConfig(alpha=(0.0, 1.0), seed=(0, 1))
    made = SweepExperiment(TextConfig(data=data, model=MODEL, batch=2, steps=STEPS, sweep=sweep), OPTIM, 0)
    nats = np.array([[4.0, 6.0], [6.0, 6.0], [2.0, 2.0], [9.0, 9.0]]) * np.log(2)
    found = entries(made, nats, np.full((4, 2), 2.0), [-1, -1, -1, 3])
    assert [e.alpha for e in found] == ["1", "0"]
    assert found[0].over == "windows" and found[0].frozen == [3] and found[0].bits == pytest.approx(1)
    assert found[1].over == "seeds" and found[1].bits == pytest.approx(2.75) and found[1].low < 2.75 < found[1].high


def test_a_sweep_trains_and_each_run_is_evaluated(data, tmp_path):
    overrides = [
        f"experiment.data={{source: {data.source}, windows: 4}}",
        "experiment.model={length: 16, width: 16, layers: 1, heads: 2}",
        "experiment.sweep={alpha: [0, learnable], learning_rate: [1e-2, 1e6]}",
        *("experiment.batch=2", "experiment.steps=6", "optim.warmup_steps=2", "train.log_every=1", "train.checkpoint_every=2"),
    ]
    plan = lambda: train.plan_of("configs/text_sweep.yaml", [*overrides, "runtime.device=cpu"])
    code, whole = train.run(plan(), tmp_path / "whole", quiet=True)
    assert code == 0
    run = tmp_path / "whole"
    assert (run / "pictures" / "sweep_curves.png").exists() and (run / "pictures" / "sweep_settings.svg").exists()
    board = json.loads((run / "leaderboard.json").read_text())
    assert len(board) == 4 and board[0]["learning_rate"] == 0.01 and len(board[-1]["frozen"]) == 1
    lines = records(run)
    name = "run/paGLU alpha learnable lr 0.01 seed 0"
    assert len([r for r in lines if name in r]) == 6
    assert evaluate.main([str(run), "--member", "2", "--device", "cpu"]) == 0
    opened = open_run(run, member=2)
    assert isinstance(opened.experiment, TextExperiment) and opened.experiment.config.model.alpha.kind == "learnable"
    with pytest.raises(UserError, match="expected 0 to 3, got 4"):
        open_run(run, member=4)
    last = max((run / "checkpoints").iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1)
    shutil.rmtree(last)  # as if the run had stopped before its end
    code, again = train.run(plan(), run, quiet=True)
    value = lambda rows: [(r["step"], r[name]) for r in rows if name in r]
    assert code == 0 and value(records(run)) == value(lines)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)


SCRIPT = """
import sys
import jax, jax.numpy as jnp, numpy as np
from jaxsrc.plan import fresh_state, make_step
from jaxsrc.prefetch import place
from jaxsrc.runtime import start
from jaxsrc import train
plan = train.plan_of("configs/text_sweep.yaml", sys.argv[1:])
runtime = start(plan.runtime)
assert len(runtime.devices) == 2 and plan.experiment.sharding(runtime).spec == jax.sharding.PartitionSpec("data")
state, step = fresh_state(plan, runtime), make_step(plan, runtime)
for at in range(3):
    state, metrics = step(state, place(plan.experiment.stages[0].batch_at(0, at), runtime))
leaf = jax.tree.leaves(state.params)[0]
assert {s.data.shape[0] for s in leaf.addressable_shards} == {leaf.shape[0] // 2}
print("losses", *np.asarray(metrics.values)[2:, 0])
"""


def test_runs_are_sharded_over_devices_to_the_same_losses(data):
    overrides = [
        f"experiment.data={{source: {data.source}}}",
        "experiment.model={length: 16, width: 16, layers: 1, heads: 2}",
        "experiment.sweep={alpha: [0, 1], seed: [0, 3], over: vmap}",
        *("experiment.batch=2", "experiment.steps=6", "optim.warmup_steps=2", "runtime.device=cpu", "runtime.compile_cache=''"),
    ]
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *overrides], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    got = [float(x) for x in done.stdout.split("losses")[1].split()]
    plan = train.plan_of("configs/text_sweep.yaml", overrides)
    runtime = start(plan.runtime)
    state, step = fresh_state(plan, runtime), make_step(plan, runtime)
    for at in range(3):
        state, metrics = step(state, jax.tree.map(jnp.asarray, plan.experiment.stages[0].batch_at(0, at)))
    np.testing.assert_allclose(got, np.asarray(metrics.values)[2:, 0], rtol=1e-5)


def test_the_example_configuration_is_the_sweep_of_ten():
    loaded = configuration.load(RunConfig, "configs/text_sweep.yaml")
    assert isinstance(loaded.experiment, TextConfig) and loaded.experiment.sweep is not None
    assert len(members(loaded.experiment.sweep, loaded.experiment.model, 1e-3, 0)) == 10
