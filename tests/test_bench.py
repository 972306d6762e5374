"""Benches measure what they say: every point is there, the best is the least batch near the top, absent devices are named."""

import json

import pytest

from jaxsrc import bench, bench_device
from jaxsrc.bench_device import Point, best, rows
from jaxsrc.config import load
from jaxsrc.errors import UserError
from jaxsrc.experiment import RunConfig, with_batch

SMALL = ["experiment.model={length: 8, width: 16, layers: 1, heads: 2}", "experiment.data={source: nowhere}"]


def test_a_configuration_is_measured_without_its_data(tmp_path, capsys):
    arguments = ["device", "configs/text_laptop.yaml", *SMALL, "--device", "cpu", "--batch", "1", "2", "--steps", "5"]
    assert bench.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    points = json.loads((tmp_path / "out" / "bench_device.json").read_text())
    assert [(p["device"], p["batch"], len(p["seconds"])) for p in points] == [("cpu", 1, 5), ("cpu", 2, 5)]
    assert (tmp_path / "out" / "pictures" / "bench_device.svg").exists()
    said = capsys.readouterr().out
    assert "cpu, float32, batch 2: compiling" in said and "not measured, since not on this machine: cuda, metal" in said


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["kan", "nowhere", "--seeds", "0"], "seeds"),
        (["kan", "nowhere", "--seconds", "nan"], "seconds"),
        (["kan", "nowhere", "--limit", "-3"], "limit"),
        (["device", "--steps", "0"], "steps"),
        (["sweep", "--rounds", "0"], "rounds"),
    ],
)
def test_a_bench_of_nothing_is_refused(arguments, name):
    with pytest.raises(UserError, match=f"--{name}: expected a number above 0"):
        bench.main(arguments)


def test_the_best_batch_is_the_least_one_near_the_top():
    points = [Point("cpu", "float32", b, 1.0, [s] * 5) for b, s in ((1, 1.0), (8, 1.0), (16, 1.99), (64, 16.0))]
    assert best(points)["cpu"].batch == 8
    assert [r[6] for r in rows(points)] == ["1.00"] * 4


def test_ratios_are_of_samples_a_second_at_one_batch_and_what_failed_says_why():
    points = [
        Point("cuda", "float32", 8, 1.0, [0.5] * 5),
        Point("cuda", "float32", 16, 0.0, [], "out of memory"),
        Point("cpu", "float32", 8, 1.0, [2.0] * 5),
    ]
    shown = rows(points)
    assert shown[0][6] == "4.00" and shown[1][3] == "out of memory"


def test_what_is_not_here_is_refused():
    config = load(RunConfig, "configs/text_laptop.yaml", SMALL)
    with pytest.raises(UserError, match="which this machine has, got cuda"):
        bench_device.sweep(config, ["cuda"], ["float32"], [1], 1.0, 5, print)
    with pytest.raises(UserError, match="at least 1, got 0"):
        bench_device.sweep(config, ["cpu"], ["float32"], [0], 1.0, 5, print)


@pytest.mark.parametrize("path", ["configs/text_laptop.yaml", "configs/arc_sheaf.yaml"])
def test_the_batch_of_every_kind_can_be_set(path):
    from jaxsrc.experiment import build

    experiment = build(with_batch(load(RunConfig, path), 3))
    import jax

    assert {x.shape[0] for x in jax.tree.leaves(experiment.abstract_batch(0))} == {3}


def test_a_sweep_is_measured_against_its_runs(tmp_path, capsys):
    sweep = "experiment.sweep={alpha: [0, 1]}"
    arguments = ["sweep", "configs/text_sweep.yaml", *SMALL, sweep, "experiment.batch=2", "runtime.device=cpu", "--rounds", "1"]
    assert bench.main([*arguments, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "one program, map" in said and "one program, vmap" in said
