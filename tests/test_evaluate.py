"""From a small trained run to scores, pictures and a submission; what is refused on the way."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxsrc import evaluate, submission, train
from jaxsrc.arc_experiment import ArcConfig, ArcDataConfig, ArcExperiment
from jaxsrc.curriculum import StageConfig
from jaxsrc.data.arc import Pair, Task
from jaxsrc.errors import ConfigError, UserError
from jaxsrc.plots import arc_pages
from jaxsrc.report import Report

SMALL = ("experiment.model.width=16", "experiment.model.stalk=4", "experiment.model.layers=1", "experiment.model.keys=16")


def swapped(seed: int, a: int, b: int, tests: int = 1, solved: bool = True) -> dict:
    """A task: colours a and b change places on random 4 x 4 grids."""
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(3 + tests):
        grid = rng.choice([0, a, b], (4, 4))
        pairs.append({"input": grid.tolist(), "output": np.where(grid == a, b, np.where(grid == b, a, grid)).tolist()})
    hidden = [p if solved else {"input": p["input"]} for p in pairs[3:]]
    return {"train": pairs[:3], "test": hidden}


def folder(path: Path, **tasks: dict) -> Path:
    path.mkdir()
    for name, task in tasks.items():
        (path / f"{name}.json").write_text(json.dumps(task))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of two steps on six tasks: what it answers is the closed form's work."""
    base = tmp_path_factory.mktemp("evaluate")
    assert train.main(training(base)) == 0
    return base / "run"


def training(base: Path) -> list[str]:
    """The command, its data made where they are not there."""
    known, scored = base / "known", base / "scored"
    if not known.exists():
        folder(known, **{f"k{i}": swapped(i, 1 + i % 3, 5 + i % 4) for i in range(6)})
        folder(scored, a=swapped(70, 1, 9))
    data = f"experiment.data={{train: [{known}], exclude: [], hold_out: false, evaluate: {scored}}}"
    stages = "experiment.stages=[{scale: 0, steps: 2, batch: 2}]"
    arguments = ["configs/arc_sheaf.yaml", *SMALL, data, stages, "optim.warmup_steps=1", "train.best=''", "--device", "cpu"]
    return [*arguments, "--out", str(base / "run")]


def test_an_evaluation_scores_draws_and_writes_a_valid_submission(trained, tmp_path, capsys):
    fresh = folder(tmp_path / "fresh", swap=swapped(50, 2, 8), twice=swapped(51, 4, 9, tests=2))
    assert evaluate.main([str(trained), "--tasks", str(fresh), "--workers", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "2/2 tasks, 2 solved in two attempts" in said
    for arm in (*evaluate.BASELINES, *evaluate.ARMS):
        assert arm in said
    found = list(trained.glob("*_submission.json"))
    assert len(found) == 1
    assert submission.main(["score", str(found[0]), "--tasks", str(fresh)]) == 0
    assert "2 of 2 tasks whole" in capsys.readouterr().out
    assert list((trained / "pictures").glob("*_solved.png")) and list((trained / "pictures").glob("*_scales.svg"))


def test_a_finished_training_stays_finished_whatever_was_measured_since(trained, capsys):
    Report(trained, quiet=True).close("evaluated")
    before = (trained / "metrics.jsonl").read_bytes()
    assert train.main(training(trained.parent)) == 0
    assert "this run is finished (step 2)" in capsys.readouterr().out
    assert (trained / "metrics.jsonl").read_bytes() == before


def test_training_on_what_the_configuration_scores_is_refused_before_the_first_step(tmp_path):
    known = str(folder(tmp_path / "known", k0=swapped(0, 1, 5)))
    made = ArcExperiment(ArcConfig(data=ArcDataConfig(train=(known,), exclude=(), hold_out=False, evaluate=known)))
    with pytest.raises(UserError, match="expected no training task whose test output is scored, got 1: k0"):
        made.stages[0].batch_at(0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "-1"], "--workers, --depths: expected none below 0"),
        (["--views", "9"], "--views: expected 1 to 8, got 9"),
        (["--held-out", "--tasks", "arcagi1:evaluation"], "expected --held-out or --tasks, got both"),
        (["--held-out"], "--held-out: expected training tasks that were held out, got none"),
    ],
)
def test_options_that_cannot_be_are_refused(trained, options, message):
    with pytest.raises(UserError, match=message):
        evaluate.main([str(trained), *options, "--device", "cpu"])


def test_the_picture_of_a_failed_task_shows_a_test_that_was_failed():
    grids = [np.full((2, 2), i, np.uint8) for i in range(3)]
    task = Task("two", "here", (Pair(grids[0], grids[1]),), (Pair(grids[0], grids[1]), Pair(grids[1], grids[2])))
    row = arc_pages._row(evaluate.Solved(task, {"arm": [[grids[1], grids[0]]]}, "guessed", 1.0), "arm")
    assert row.outcome == "failed" and "test 2 of 2" in row.scale and row.truth is grids[2]


def test_a_task_that_was_trained_on_is_not_scored(trained, tmp_path):
    leaked = folder(tmp_path / "leaked", other=swapped(2, 3, 7))
    with pytest.raises(UserError, match="k2"):
        evaluate.main([str(trained), "--tasks", str(leaked), "--workers", "1", "--device", "cpu"])


def test_tasks_without_solutions_cannot_be_scored(trained, tmp_path):
    hidden = folder(tmp_path / "hidden", a=swapped(60, 2, 8, solved=False))
    with pytest.raises(UserError, match="expected known test outputs"):
        evaluate.main([str(trained), "--tasks", str(hidden), "--workers", "1", "--device", "cpu"])


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_folder_that_is_no_run_names_the_command(tmp_path, content):
    if content:
        (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(UserError, match=r"expected a (run folder|checkpoint)"):
        evaluate.main([str(tmp_path), "--device", "cpu"])


def test_an_experiment_without_stages_is_refused():
    with pytest.raises(UserError, match=r"experiment.stages: expected at least one stage"):
        ArcExperiment(ArcConfig(stages=()))


def test_a_stage_without_tasks_says_which_key_to_raise(tmp_path):
    big = swapped(1, 2, 3)
    for pair in (*big["train"], *big["test"]):
        pair["input"] = np.kron(pair["input"], np.ones((3, 3), int)).tolist()
        pair["output"] = np.kron(pair["output"], np.ones((3, 3), int)).tolist()
    where = folder(tmp_path / "big", big=big)
    data = ArcDataConfig(train=(str(where),), exclude=(), hold_out=False)
    made = ArcExperiment(ArcConfig(data=data, stages=(StageConfig(scale=0, steps=1, batch=1),)))
    with pytest.raises(UserError, match=r"expected training tasks of scale 0.*raise experiment.stages.N.scale"):
        made.stages[0].batch_at(0, 0)


def test_a_wrong_configuration_makes_no_folder(tmp_path):
    with pytest.raises(ConfigError):
        train.main(["configs/arc_sheaf.yaml", "experiment.model.widht=3", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()
