"""A run that is stopped in any way ends with the metrics of one that is not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import kills

TOY = Path(__file__).with_name("toy.py")


def command(cache: Path, *overrides: str) -> list[str]:
    return [sys.executable, str(TOY), "runtime.device=cpu", f"runtime.compile_cache={cache}", *overrides]


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


def wait_for_step(run: Path, step: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while kills.last_step(run) < step:
        assert process.poll() is None, f"ended too early with {process.returncode}"
        assert time.monotonic() < deadline, "no progress in two minutes"
        time.sleep(0.005)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_says_how_to_go_on(tmp_path, cache, number):
    base = command(cache, "toy.stages=[30,30]", "toy.wait=0.02", "train.log_every=1", "train.checkpoint_every=1000")
    base.append("optim.warmup_steps=2")
    run, reference = tmp_path / "run", tmp_path / "reference"
    assert kills.run_to_end([*base, "--out", str(reference)]).returncode == 0
    process = subprocess.Popen([*base, "--out", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for_step(run, 17, process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"--out {run}" in out and "to go on" in out
    stopped = kills.last_step(run)
    assert 17 <= stopped < 60
    again = kills.run_to_end([*base, "--out", str(run)])
    assert again.returncode == 0, again.stderr
    assert f"resumed from step {stopped} of 60" in again.stdout
    assert kills.compare(run, reference) == []


def test_kills_at_random_points_leave_the_metrics_bit_identical(tmp_path, cache):
    overrides = [
        *("toy.stages=[30,0,50]", "toy.wait=0.01", "toy.widths=[16,16]", "optim.ema=0.9", "optim.accumulate=2"),
        *("optim.warmup_steps=2", "train={log_every: 3, eval_every: 7, checkpoint_every: 5, best: val/score}"),
    ]
    outcome = kills.torture(command(cache, *overrides), tmp_path, 80, kills=5, saves=2, seed=3)
    assert outcome.different == [], outcome.stderr
    assert outcome.steps == 80
    assert len(outcome.kills) >= 5
    assert sum(k.during == "save" for k in outcome.kills) >= 2, outcome.kills


def test_a_finished_run_says_so_and_another_configuration_is_refused(tmp_path, cache):
    base = [*command(cache, "toy.stages=[4]", "train.checkpoint_every=2"), "--out", str(tmp_path / "run")]
    base.append("optim.warmup_steps=2")
    assert kills.run_to_end(base).returncode == 0
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    again = kills.run_to_end(base)
    assert again.returncode == 0 and "finished (step 4)" in again.stdout
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
    other = kills.run_to_end([*base, "seed=1"])
    assert other.returncode == 2
    assert other.stderr.count("\n") == 1 and "seed: 1 here, 0 there" in other.stderr
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before
