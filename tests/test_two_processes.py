"""Two processes over loopback train as one does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOY = Path(__file__).with_name("toy.py")
WORDS = ["toy.stages=[12,8]", "optim={warmup_steps: 2, learning_rate: 1e-2, ema: 0.9}", "train={log_every: 1, checkpoint_every: 5}"]  # fmt: skip  # noqa: E501


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def begin(run: Path, more: str = "", words: list[str] = WORDS) -> subprocess.Popen:
    command = [sys.executable, str(TOY), *words, f"runtime={{device: cpu, compile_cache: ''{more}}}", "--out", str(run)]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def two(run: Path, words: list[str] = WORDS) -> list[tuple[int, str, str]]:
    address = f"127.0.0.1:{free_port()}"
    both = [begin(run, f", coordinator: '{address}', processes: 2, process: {i}", words) for i in (0, 1)]
    try:
        outs = [p.communicate(timeout=240) for p in both]
    finally:
        for p in both:
            p.kill()
    return [(p.returncode, *out) for p, out in zip(both, outs, strict=True)]


def curve(run: Path) -> dict[str, list[float]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = ("loss", "grad_norm", "seen")
    return {n: [r[n] for r in rows if n in r] for n in names} | {"val": [r["val/score"] for r in rows if "val/score" in r]}


@pytest.fixture(scope="module")
def one(tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("one") / "run"
    process = begin(run)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return run


def same(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-6, err_msg=name)


def test_two_processes_give_the_loss_curve_of_one_and_its_checkpoints(tmp_path, one):
    run = tmp_path / "run"
    first, second = two(run)
    assert first[0] == 0 and second[0] == 0, first[2] + second[2]
    assert "2 x cpu" in first[1] and "step 20/20" in first[1]
    assert [x for x in second[1].splitlines() if not x.startswith("[Gloo]")] == []  # one voice
    assert len(curve(run)["loss"]) == 20
    same(curve(run), curve(one))
    again = two(run)
    assert all(r[0] == 0 for r in again) and "this run is finished (step 20)" in again[0][1]


def test_two_processes_stop_together_and_one_goes_on_alone(tmp_path, one):
    run = tmp_path / "run"
    slow = [*WORDS, "toy.wait=0.0"]
    address = f"127.0.0.1:{free_port()}"
    slow[-1] = "toy.wait=0.1"
    both = [begin(run, f", coordinator: '{address}', processes: 2, process: {i}", slow) for i in (0, 1)]
    try:
        metrics = run / "metrics.jsonl"
        while both[0].poll() is None and not (metrics.exists() and '"step": 3,' in metrics.read_text()):
            pass
        both[1].terminate()  # the signal reaches one of them only
        outs = [p.communicate(timeout=240) for p in both]
    finally:
        for p in both:
            p.kill()
    assert [p.returncode for p in both] == [130, 130], outs
    stopped = len(curve(run)["loss"])
    assert 3 <= stopped < 20
    alone = begin(run, words=slow)
    out, err = alone.communicate(timeout=240)
    assert alone.returncode == 0, err
    assert f"resumed from step {stopped} of 20" in out
    same(curve(run), curve(one))
