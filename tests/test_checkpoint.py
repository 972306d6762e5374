"""Checkpoints: exact, atomic, kept and counted, opened elsewhere, refused with a reason, mended by the one before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsrc import checkpoint, train
from jaxsrc.checkpoint import Checkpoints, Meta, abstract
from jaxsrc.errors import DONE, UserError
from jaxsrc.plan import abstract_state
from jaxsrc.runtime import RuntimeConfig, start
from tests import toy

TOY = Path(toy.__file__)
ONE = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])


def state(value: float) -> dict:
    return {"w": jnp.full((64, 64), value), "n": jnp.int32(value), "deep": ({"key": jnp.arange(2, dtype=jnp.uint32)},)}


def save(checkpoints: Checkpoints, *steps: int) -> None:
    for step in steps:
        checkpoints.save(state(step), Meta(step=step, config={}))
    checkpoints.wait()


def toy_plan(*overrides: str):
    base = ("runtime={device: cpu, compile_cache: ''}", "optim.warmup_steps=2", "train={log_every: 1, checkpoint_every: 5}")
    return toy.plan([*base, *overrides])


def records(run: Path) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "t"} for line in lines]


def test_what_is_restored_is_bit_for_bit_what_was_saved_though_its_buffers_were_donated(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=100)
    grow = jax.jit(lambda s: jax.tree.map(lambda x: (x * 3 + 1).astype(x.dtype), s), donate_argnums=0)
    here, copies = state(1.0), []
    for step in range(8):
        copies.append(jax.tree.map(lambda x: np.array(x, copy=True), here))
        checkpoints.save(here, Meta(step=step, config={"a": 1}, window={"loss": [0.1 + 0.2, 3.0]}))
        for _ in range(20):  # the writer is at work on buffers that these steps take over
            here = grow(here)
    checkpoints.wait()
    for step, copy in enumerate(copies):
        if step != 7:
            shutil.copytree(tmp_path / "checkpoints" / str(step), tmp_path / str(step) / "checkpoints" / str(step))
            restored = Checkpoints(tmp_path / str(step)).restore(abstract(here, ONE))
        else:
            restored = checkpoints.restore(abstract(here, ONE))
        jax.tree.map(np.testing.assert_array_equal, restored.state, copy)
        assert restored.meta.step == step and restored.meta.config == {"a": 1}
        assert restored.meta.window == {"loss": [0.1 + 0.2, 3.0]} and restored.notes == []


def test_the_last_few_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in range(1, 6):
        save(checkpoints, step)
        if step in (2, 3):
            checkpoints.save(state(step), Meta(step=step, config={}, best=float(step)), best=True)
    checkpoints.wait()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["4", "5"]
    assert [p.name for p in (tmp_path / "best").iterdir()] == ["3"]
    assert checkpoints.restore(abstract(state(0), ONE), "best").meta.best == 3.0
    save(checkpoints, 5)  # again: kept as it is


def test_a_part_can_be_read_alone(tmp_path):
    save(Checkpoints(tmp_path), 3)
    part = Checkpoints(tmp_path, read_only=True).restore({"w": abstract(state(0)["w"], ONE)}, part=True)
    assert part.state.keys() == {"w"} and float(part.state["w"][0, 0]) == 3.0


def break_array(folder: Path) -> None:
    files = [p for p in (folder / "state").rglob("*") if p.is_file() and "/d/" in str(p)]
    assert files
    for file in files:
        os.truncate(file, file.stat().st_size // 2)


def break_meta(folder: Path) -> None:
    (folder / "meta" / "metadata").write_text('{"step": 1')


def empty(folder: Path) -> None:
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()


@pytest.mark.parametrize("damage", [break_array, break_meta, empty])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, damage):
    save(Checkpoints(tmp_path), 1, 2)
    damage(tmp_path / "checkpoints" / "2")
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore(abstract(state(0), ONE))
    assert restored.meta.step == 1 and restored.damaged == [2]
    assert "checkpoint 2 is damaged" in restored.notes[0] and "\n" not in restored.notes[0]
    jax.tree.map(np.testing.assert_array_equal, restored.state, state(1))
    checkpoints.set_aside(restored.damaged)
    save(checkpoints, 2)  # the step can be written again
    assert Checkpoints(tmp_path).restore(abstract(state(0), ONE)).meta.step == 2
    assert len(list((tmp_path / "damaged").iterdir())) == 1


def test_only_damaged_checkpoints_are_the_users_to_decide_about(tmp_path):
    plan = toy_plan("toy.stages=[6]")
    train.run(plan, tmp_path / "run", quiet=True)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        break_meta(folder)
    with pytest.raises(UserError, match=r"expected a readable checkpoint .* got only damaged ones; .* delete the folder"):
        train.run(plan, tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one_to_the_same_metrics(tmp_path, capsys):
    plan = toy_plan("toy.stages=[12]", "toy.noise=0.2")
    train.run(plan, tmp_path / "whole", quiet=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    break_array(tmp_path / "run" / "checkpoints" / "12")
    code, _ = train.run(plan, tmp_path / "run")
    out = capsys.readouterr().out
    assert code == DONE and "checkpoint 12 is damaged" in out and "resumed from step 10 of 12" in out
    assert records(tmp_path / "run") == records(tmp_path / "whole")


def test_a_checkpoint_of_another_model_is_refused_path_by_path(tmp_path):
    runtime = start(RuntimeConfig(device="cpu", compile_cache=""))
    train.run(toy_plan("toy.stages=[5]"), tmp_path / "run", quiet=True)
    checkpoints = Checkpoints(tmp_path / "run", read_only=True)
    with pytest.raises(UserError) as wider:
        checkpoints.restore(abstract_state(toy_plan("toy.stages=[5]", "toy.widths=[8,12]"), runtime))
    assert "params.layers.1.w: 'float32[8,12]' here, 'float32[8,8]' there" in str(wider.value)
    assert "\n" not in str(wider.value)
    with pytest.raises(UserError, match=r"params.layers.3.b: 'float32\[1\]' here, 'absent' there"):
        checkpoints.restore(abstract_state(toy_plan("toy.stages=[5]", "toy.widths=[8,8,8]"), runtime))


def test_a_checkpoint_from_the_future_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1), Meta(step=1, config={}, format=checkpoint.FORMAT + 1))
    checkpoints.wait()
    with pytest.raises(UserError, match=r"format 1 or older, got format 2 .* update sheaf"):
        Checkpoints(tmp_path).restore(abstract(state(0), ONE))


def test_a_reader_leaves_a_save_in_progress_alone_and_a_writer_clears_it(tmp_path):
    save(Checkpoints(tmp_path), 1)
    half = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", half)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.restore(abstract(state(0), ONE)).meta.step == 1
    assert half.is_dir()
    writer = Checkpoints(tmp_path)
    save(writer, 2)
    assert not half.exists() and writer.on_disk == 2


def test_a_reader_of_no_run_says_so(tmp_path):
    with pytest.raises(UserError, match="expected a run folder with checkpoints/"):
        Checkpoints(tmp_path / "nothing", read_only=True)
    assert not (tmp_path / "nothing").exists()


def script(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOY), "runtime={device: cpu, compile_cache: ''}", *words]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False)


def test_a_run_of_one_device_goes_on_with_two(tmp_path):
    words = ["toy.stages=[20]", "optim.warmup_steps=2", "train={log_every: 1, checkpoint_every: 5}"]
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert script(*words, "--out", str(whole)).returncode == 0
    first = script(*words, "--out", str(run), "--budget-seconds", "0.01")  # one step
    assert first.returncode == 0 and "out of time and saved" in first.stdout
    two = script(*words, "--out", str(run), XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert two.returncode == 0, two.stderr
    assert "2 x cpu" in two.stdout and "resumed from step 1 of 20" in two.stdout
    loss = lambda folder: [r["loss"] for r in records(folder) if "loss" in r]
    assert len(loss(run)) == 20
    np.testing.assert_allclose(loss(run), loss(whole), rtol=1e-4, atol=1e-6)
    plan = toy_plan("toy.stages=[20]")
    back = Checkpoints(run, read_only=True).restore(
        abstract_state(plan, start(RuntimeConfig(device="cpu", compile_cache="")))
    )  # and two devices' checkpoint opens on one
    assert back.meta.step == 20 and back.state.step.sharding.device_set == {jax.devices("cpu")[0]}


def test_a_batch_that_the_devices_do_not_divide_is_refused(tmp_path):
    words = ["toy.batch=7", "toy.stages=[4]", "optim.warmup_steps=2", "--out", str(tmp_path / "run")]
    found = script(*words, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert found.returncode == 2
    assert found.stderr == "error: expected a batch that 2 devices divide, got 7; change the batch size\n"


FULL_DISK = """
import resource, signal, sys
sys.path[:0] = [{root!r}]
from tests import toy
from jaxsrc import checkpoint
from jaxsrc.errors import command_line
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
save = checkpoint.Checkpoints.save
def limited(self, state, meta, **more):
    if meta.step == 10:  # from here on no file can grow beyond a few bytes: what a full disk does
        self.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))
    return save(self, state, meta, **more)
checkpoint.Checkpoints.save = limited
command_line(toy.main)
"""


def test_a_full_disk_while_saving_keeps_the_old_checkpoint_and_is_one_line(tmp_path):
    words = ["toy.stages=[30]", "optim.warmup_steps=2", "train={log_every: 1000, checkpoint_every: 5}",
             "runtime={device: cpu, compile_cache: ''}", "--out", str(tmp_path / "run")]  # fmt: skip
    code = FULL_DISK.format(root=str(TOY.parents[1]))
    found = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 2, found.stderr
    lines = found.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: expected to write"), found.stderr
    assert "free some space" in lines[0] and "resumes from step 5" in lines[0]
    again = script(*words[:3], *words[4:])
    assert again.returncode == 0 and "resumed from step 5 of 30" in again.stdout
