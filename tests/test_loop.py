"""The loop: order of dispatch and reading, guard, errors, stages, budget, best, profile, dry run."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxsrc import loop, memory, train
from jaxsrc.checkpoint import Checkpoints
from jaxsrc.dry_run import dry_run
from jaxsrc.errors import DONE, RunError, UserError
from jaxsrc.loop import Fit
from jaxsrc.prefetch import prefetched
from jaxsrc.protocol import Stage
from jaxsrc.report import Report
from jaxsrc.runtime import RuntimeConfig, start
from jaxsrc.step import CompiledOnce, RecompileError
from tests import toy

BASE = ("runtime={device: cpu, compile_cache: ''}", "optim.warmup_steps=2", "optim.learning_rate=1e-2")


def plan(*overrides: str):
    steps = ("train={log_every: 1, checkpoint_every: 10}",) if not any(o.startswith("train=") for o in overrides) else ()
    return toy.plan([*BASE, *steps, *overrides])


def records(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "t"} for line in lines]


def steps(run: Path) -> list[dict]:
    return [r for r in records(run) if "loss" in r]


def test_metrics_of_a_step_are_read_after_the_next_is_dispatched(tmp_path, monkeypatch):
    order = []
    call, read = CompiledOnce.__call__, Fit._read
    monkeypatch.setattr(CompiledOnce, "__call__", lambda self, *a: (order.append("dispatch"), call(self, *a))[1])
    monkeypatch.setattr(Fit, "_read", lambda self, step, m: (order.append(step), read(self, step, m))[1])
    train.run(plan("toy.stages=[4]"), tmp_path / "run", quiet=True)
    assert order == ["dispatch", "dispatch", 1, "dispatch", 2, "dispatch", 3, 4]


def test_an_implicit_transfer_inside_the_loop_is_an_error(tmp_path, monkeypatch):
    add = jax.jit(lambda x, y: x + y)
    there = jax.device_put(np.ones(3, np.float32))
    monkeypatch.setattr(Report, "step", lambda *a: add(there, np.ones(3, np.float32)))
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train.run(plan("toy.stages=[4]"), tmp_path / "run", quiet=True)


def test_each_stage_compiles_its_step_once_and_nothing_else_in_the_loop_compiles(tmp_path, monkeypatch):
    log: list[str] = []
    compile_step = CompiledOnce.compile
    monkeypatch.setattr(CompiledOnce, "compile", lambda self, *a: (log.append("step"), compile_step(self, *a)))
    backend = "/jax/core/compile/backend_compile_duration"
    listen = lambda name, seconds, **_: log.append("backend") if name == backend else None
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        report = Report.step
        monkeypatch.setattr(Report, "step", lambda self, at, *a: (log.append(f"{at}"), report(self, at, *a)))
        train.run(plan("toy.stages=[3,0,3]"), tmp_path / "run", quiet=True)
    finally:
        jax.monitoring.clear_event_listeners()
    assert log.count("step") == 2
    start = log.index("step")
    assert "".join(x[0] for x in log[start:]).count("b") == 2, log[start:]
    assert log[start:] == ["step", "backend", "1", "2", "3", "step", "backend", "4", "5", "6"]


def test_nan_stops_with_the_step_and_the_last_good_checkpoint(tmp_path):
    with pytest.raises(RunError, match=r"got loss, .*grad_norm.* not finite at step 24; the last good checkpoint is step 20"):
        train.run(plan("toy.stages=[40]", "toy.poison=24"), tmp_path / "run", quiet=True)
    assert steps(tmp_path / "run")[-1]["step"] == 23
    assert Checkpoints(tmp_path / "run", read_only=True).latest == 20
    assert "not finite at step 24" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(RunError, match="there is no checkpoint yet"):
        train.run(plan("toy.stages=[40]", "toy.poison=3"), tmp_path / "early", quiet=True)


def test_nan_on_a_checkpoint_step_is_not_saved(tmp_path):
    with pytest.raises(RunError, match="at step 20; the last good checkpoint is step 10"):
        train.run(plan("toy.stages=[40]", "toy.poison=20"), tmp_path / "run", quiet=True)
    assert Checkpoints(tmp_path / "run", read_only=True).latest == 10


def test_a_batch_of_another_shape_is_an_error_that_names_it(tmp_path):
    with pytest.raises(RecompileError, match=r"batch\.x: float32\[8,4\] then, float32\[9,4\] now"):
        train.run(plan("toy.stages=[40]", "toy.reshape=5"), tmp_path / "run", quiet=True)


def test_an_error_of_the_data_is_raised_as_it_is():
    def broken(seed: int, step: int):
        if step == 2:
            raise UserError("expected a picture, got none")
        return {"x": np.zeros((2, 1), np.float32)}

    runtime = start(RuntimeConfig(device="cpu", compile_cache=""))
    seen = []
    with (
        pytest.raises(UserError, match="expected a picture"),
        prefetched(Stage("s", 5, broken), 0, range(5), 1, runtime) as batches,
    ):
        for batch in batches:
            seen.append(batch)
    assert len(seen) == 2


def test_batches_come_in_order_and_only_a_few_ahead():
    asked: list[int] = []

    def batch_at(seed: int, step: int):
        asked.append(step)
        return np.full((2,), 10 * seed + step)

    runtime = start(RuntimeConfig(device="cpu", compile_cache=""))
    with prefetched(Stage("s", 50, batch_at), 7, range(3, 50), 1, runtime) as batches:
        assert [int(next(batches)[0]) for _ in range(4)] == [73, 74, 75, 76]
        assert len(asked) <= 4 + 4
    with prefetched(Stage("s", 50, batch_at), 7, range(0, 6, 3), 3, runtime) as batches:
        np.testing.assert_array_equal(next(batches), [[70, 70], [71, 71], [72, 72]])


def test_several_steps_a_call_report_the_same_steps(tmp_path):
    one, four = tmp_path / "one", tmp_path / "four"
    train.run(plan("toy.stages=[12]"), one, quiet=True)
    train.run(plan("toy.stages=[12]", "train={log_every: 1, checkpoint_every: 6, steps_per_call: 4}"), four, quiet=True)
    assert [r["step"] for r in steps(four)] == list(range(1, 13))
    np.testing.assert_allclose([r["loss"] for r in steps(four)], [r["loss"] for r in steps(one)], rtol=1e-4)
    assert sorted(Checkpoints(four, read_only=True)._last.all_steps()) == [8, 12]  # the first calls past 6 and 12
    with pytest.raises(UserError, match=r"train.steps_per_call: expected a divisor of the 13 steps"):
        train.run(plan("toy.stages=[13]", "train.steps_per_call=4"), tmp_path / "no", quiet=True)


def test_log_lines_are_means_over_their_steps(tmp_path):
    every, fourth = tmp_path / "every", tmp_path / "fourth"
    train.run(plan("toy.stages=[10]"), every, quiet=True)
    train.run(plan("toy.stages=[10]", "train.log_every=4"), fourth, quiet=True)
    losses = np.array([r["loss"] for r in steps(every)])
    assert [r["step"] for r in steps(fourth)] == [4, 8, 10]
    expected = [losses[:4].mean(), losses[4:8].mean(), losses[8:].mean()]
    np.testing.assert_allclose([r["loss"] for r in steps(fourth)], expected, rtol=1e-6)
    train.run(plan("toy.stages=[6,4]", "train.log_every=4"), tmp_path / "stages", quiet=True)
    assert [r["step"] for r in steps(tmp_path / "stages")] == [4, 6, 8, 10]  # no mean is of two stages


def test_stages_are_validated_before_and_after_and_the_best_is_kept(tmp_path):
    p = plan("toy.stages=[20,0]", "train={log_every: 5, eval_every: 5, checkpoint_every: 100, best: val/score}")
    code, _ = train.run(p, tmp_path / "run", quiet=True)
    assert code == DONE
    found = [(r["step"], r["val/score"]) for r in records(tmp_path / "run") if "val/score" in r]
    assert [s for s, _ in found] == [0, 5, 10, 15, 20, 20]
    scores = dict(found[1:5])
    best = max(scores, key=scores.__getitem__)
    kept = Checkpoints(tmp_path / "run", read_only=True)
    assert kept._best.all_steps() == [best]
    assert kept._meta(kept._best, best).metrics == {"val/score": pytest.approx(scores[best])}


def test_a_misnamed_best_metric_is_the_users_error(tmp_path):
    with pytest.raises(UserError, match=r"train.best: expected one of val/score, got 'val/scroe'"):
        train.run(plan("toy.stages=[4]", "train.best=val/scroe"), tmp_path / "run", quiet=True)


def test_the_budget_stops_in_time_saves_and_finishes_and_the_rest_follows(tmp_path):
    p = plan("toy.stages=[60]", "toy.wait=0.05", "train.checkpoint_every=1000")
    code, state = train.run(p, tmp_path / "run", budget=2.5, quiet=True)
    stopped = int(state.step)
    assert code == DONE and 0 < stopped < 60
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "out of time" and "toy" in report["tables"]
    assert any("to go on" in n for n in report["notes"])
    code, state = train.run(p, tmp_path / "run", quiet=True)
    assert code == DONE and int(state.step) == 60
    assert [r["step"] for r in steps(tmp_path / "run")] == list(range(1, 61))


def test_a_run_killed_between_training_and_finish_finishes(tmp_path, monkeypatch):
    def gone(self, params, report):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(toy.Toy, "finish", gone)
        with pytest.raises(KeyboardInterrupt):
            train.run(plan("toy.stages=[20]"), tmp_path / "run", quiet=True)
    before = records(tmp_path / "run")
    train.run(plan("toy.stages=[20]"), tmp_path / "run", quiet=True)
    assert records(tmp_path / "run") == before
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "finished" and "toy" in report["tables"]


def test_evaluation_gets_the_average_where_there_is_one(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(toy.Toy, "validate", lambda self, params, stage: (given.append(params), {})[1])
    _, state = train.run(plan("toy.stages=[3]", "optim.ema=0.5"), tmp_path / "run", quiet=True)
    jax.tree.map(np.testing.assert_array_equal, given[-1], state.ema)
    assert not np.array_equal(state.ema["layers"][0]["w"], state.params["layers"][0]["w"])


def test_float16_stops_at_the_smallest_scale_and_only_counts_above_it(tmp_path, monkeypatch):
    monkeypatch.setattr("jaxsrc.state.INITIAL_SCALE", 2.0**24)  # the first backward passes overflow
    p = plan("toy.stages=[12]", "runtime={device: cpu, compile_cache: '', precision: float16}")
    train.run(p, tmp_path / "run", quiet=True)
    overflows = [r["overflow"] for r in steps(tmp_path / "run")]
    assert overflows[0] == 1 and overflows[-1] == 0
    p = plan("toy.stages=[40]", "toy.poison=3", "runtime={device: cpu, compile_cache: '', precision: float16}")
    code, _ = train.run(p, tmp_path / "one", quiet=True)  # one bad batch is skipped, not an error
    assert code == DONE and [r["overflow"] for r in steps(tmp_path / "one")][2] == 1
    monkeypatch.setattr(toy.Toy, "batch_at", lambda self, seed, step: {
        "x": np.full((8, 4), np.nan, np.float32), "y": np.zeros((8, 1), np.float32)})  # fmt: skip
    with pytest.raises(RunError, match="the gradient at the smallest loss scale not finite at step 24"):
        train.run(p, tmp_path / "nan", quiet=True)


def test_the_profile_is_written(tmp_path):
    train.run(plan("toy.stages=[25]"), tmp_path / "run", profile=True, quiet=True)
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    train.run(plan("toy.stages=[13]"), tmp_path / "short", profile=True, quiet=True)  # ends within the profile
    assert list((tmp_path / "short" / "profile").rglob("*.xplane.pb"))


def test_a_dry_run_touches_no_data(capsys, monkeypatch):
    def touched(*_):
        raise AssertionError("data touched")

    monkeypatch.setattr(toy.Toy, "batch_at", touched)
    monkeypatch.setattr(toy.Toy, "validate", touched)
    for extra in ("train.steps_per_call=2", "optim.ema=0.9"):
        dry_run(plan("toy.stages=[4,0]", extra))
        out = capsys.readouterr().out
        assert "layers.1.w  float32[8,8]" in out and f"{4 * 8 + 8 + 64 + 8 + 8 + 1}" in out
        assert "GFLOP a step" in out and "stage 'stage 1': no training step" in out and "warmup_steps: 2" in out


def test_too_little_memory_is_foreseen_with_the_fix(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda runtime: 10)
    dry_run(plan("toy.stages=[4]"))
    assert "warning: expected to fit in 0.0 GiB of free memory" in capsys.readouterr().out
    train.run(plan("toy.stages=[2]", "optim.warmup_steps=1"), tmp_path / "run")
    assert "lower the batch size" in capsys.readouterr().out


def test_free_memory_of_this_machine_is_plausible():
    free = memory.free_memory(start(RuntimeConfig(device="cpu", compile_cache="")))
    assert free is not None and 2**20 < free < 2**44


def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="expected a folder to write to"):
        train.run(plan("toy.stages=[4]"), tmp_path / "file", quiet=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_another_configuration_is_refused_but_another_machine_is_not(tmp_path):
    train.run(plan("toy.stages=[4]"), tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"toy.noise: 0.5 here, 0.1 there; choose another --out"):
        train.run(plan("toy.stages=[4]", "toy.noise=0.5"), tmp_path / "run", quiet=True)
    with pytest.raises(UserError, match=r"runtime.precision: 'bfloat16' here, 'float32' there"):
        train.run(plan("toy.stages=[4]", "runtime.precision=bfloat16"), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "config.yaml").read_text() == before
    assert train.run(plan("toy.stages=[4]", "runtime.device=auto"), tmp_path / "run", quiet=True)[0] == DONE


def test_a_checkpoint_of_another_configuration_is_refused_where_the_folder_lost_its_own(tmp_path):
    train.run(plan("toy.stages=[4]"), tmp_path / "run", quiet=True)
    (tmp_path / "run" / "config.yaml").unlink()
    with pytest.raises(UserError, match=r"toy.noise: 0.5 here, 0.1 there; choose another --out"):
        train.run(plan("toy.stages=[4]", "toy.noise=0.5"), tmp_path / "run", quiet=True)


def test_the_best_state_of_a_training_that_is_gone_is_not_kept(tmp_path):
    train.run(plan("toy.stages=[8]", "train={eval_every: 8, best: val/score}"), tmp_path / "run", quiet=True)
    assert Checkpoints(tmp_path / "run", read_only=True)._best.all_steps() == [8]
    for name in ("checkpoints", "config.yaml"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    train.run(plan("toy.stages=[4]", "train={eval_every: 4, best: val/score}"), tmp_path / "run", quiet=True)
    assert Checkpoints(tmp_path / "run", read_only=True)._best.all_steps() == [4]


@pytest.mark.parametrize("arguments", [["--budget-seconds", "nan"], ["name=" + 300 * "x", "--budget-seconds", "0"]])
def test_a_budget_must_be_a_positive_number(arguments):
    with pytest.raises(UserError, match="--budget-seconds: expected a positive number"):
        train.main(arguments)


def test_rate_and_time_left_are_of_the_steps_alone(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Report, "step", lambda self, at, total, m, s, rate, left: seen.append((at, rate, left)))
    train.run(plan("toy.stages=[8]", "toy.wait=0.02"), tmp_path / "run", quiet=True)
    assert [at for at, _, _ in seen] == list(range(1, 9)) and seen[-1][2] == 0
    assert all(math.isfinite(rate) and left >= 0 for _, rate, left in seen)
    assert seen[-1][1] < 1 / 0.02 * 8 / 5  # no faster than its batches are made, the queue's two and the first aside


def test_total_steps_counts_all_stages():
    assert loop.total_steps(plan("toy.stages=[3,0,4]").experiment.stages) == 7
