"""A depth run from the command line: train, evaluate, ask every question; and what a user can get wrong."""

import json

import pytest

from jaxsrc import analyze, depth_compare, evaluate, train
from jaxsrc.errors import UserError

TINY = [
    "name=tiny",
    "experiment.validate=4",
    "experiment.steps=4",
    "experiment.batch=4",
    "experiment.model={width: 16, layers: 2, heads: 2, hidden: 16, length: 72, dropout: 0.0, places: 4}",
    "optim.warmup_steps=1",
    "train={log_every: 2, checkpoint_every: 4}",
    "runtime={device: cpu, compile_cache: ''}",
]


ABOUT = "rewrite, trained on 0-2 (2-12 numbers to 99, values within 99999999, 60 examples; step 4)"
WORDS = ("accuracy", "probes", "loss")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    more = ["experiment.data.examples=60", "experiment.data.drills=60", "experiment.reduce_batch=8"]
    assert train.main(["configs/depth_rewrite.yaml", *TINY, *more, "--out", str(out)]) == 0
    return out


def test_a_run_is_scored_by_depth_and_operators(run):
    assert evaluate.main([str(run), "--limit", "6", "--depths", "0", "3", "--device", "cpu"]) == 0
    found = json.loads((run / "depth_evaluation.json").read_text())
    assert found["track"] == "rewrite" and found["sets"] == {
        "depth 0": {"items": 6, "right": 0},
        "depth 3": {"items": 6, "right": 0},
    }
    assert found["depths"] == {"0": [0, 6], "3": [0, 6]}
    assert depth_compare.main([str(run), str(run), "--out", str(run.parent / "both")]) == 0
    tables = json.loads((run.parent / "both" / "report.json").read_text())["tables"]
    assert next(iter(tables.values()))["rows"][1][:3] == [f"{ABOUT}, depth 3", "12", "0.0"]
    page = (run / "report.html").read_text()
    assert "greedy exact match by operators" in page and (run / "pictures" / "depth_curve.png").exists()


def test_a_file_is_scored_and_a_bad_one_refused_by_its_line(run, tmp_path):
    file = tmp_path / "mine.jsonl"
    file.write_text('{"expr": "1+1", "result": 2, "depth": [0, 0, 0]}\n')
    assert evaluate.main([str(run), "--tasks", str(file), "--device", "cpu"]) == 0
    file.write_text('{"expr": "1+1", "result": 3, "depth": [0, 0, 0]}\n')
    with pytest.raises(UserError, match="line 1"):
        evaluate.main([str(run), "--tasks", str(file), "--device", "cpu"])


def test_every_question_is_answered_on_one_page(run, capsys):
    assert analyze.main([str(run), "report", "--items", "24", "--device", "cpu"]) == 0
    page = (run / "report.html").read_text()
    for words in ("ablation, resample", "probe, exact depth", "logit lens", "direct logit attribution", "patching"):
        assert words in page
    assert len(list((run / "pictures").glob("*.png"))) >= 11


def test_a_direct_run_has_teacher_forced_figures_beside_the_greedy_ones_and_the_studys_table(tmp_path):
    out = tmp_path / "direct"
    small = "experiment.model={width: 32, layers: 3, heads: 4, hidden: 16, length: 32, dropout: 0.0}"
    assert train.main(["configs/depth_pilot.yaml", *TINY, small, "experiment.validate=0", "--out", str(out)]) == 0
    # expressions of depth 10 are longer than the model: they are answered, and have no teacher-forced figures
    assert evaluate.main([str(out), "--limit", "4", "--depths", "0", "10", "--device", "cpu"]) == 0
    assert "longer than the 32 tokens" in (out / "report.html").read_text()
    tables = json.loads((out / "report.json").read_text())["tables"]
    forced = next(t for n, t in tables.items() if "teacher-forced" in n)
    assert [row[0] for row in forced["rows"]] == ["depth 0", "study: flat", "study: paren", "study: depth3"]
    assert analyze.main([str(out), "study", "--device", "cpu"]) == 0
    tables = json.loads((out / "report.json").read_text())["tables"]
    accuracy, probes, loss = (next(t["rows"] for n, t in tables.items() if f"the study's {w}" in n) for w in WORDS)
    assert [row[1] for row in accuracy] == ["95 - 96", "90 - 92", "93.0", "91.0", "+4"]
    assert [row[3] for row in accuracy[:4]] == ["100.0"] * 4
    assert [row[4:] for row in probes] == [["89.07", "77.16"]] * 2 and [row[1] for row in probes] == ["89.16", "99.91"]
    assert loss[0][1] == "0.2143" and float(loss[0][3]) == pytest.approx(1.07, abs=0.01)


def test_wrong_commands_are_one_line(tmp_path, run):
    with pytest.raises(UserError, match="at least 8"):
        analyze.main([str(run), "lens", "--items", "3"])
    with pytest.raises(UserError, match="evaluated depth run"):
        depth_compare.main([str(tmp_path)])
    with pytest.raises(UserError, match="head from 0 to 1, got 7"):
        analyze.main([str(run), "ablate", "--layer", "1", "--head", "7", "--device", "cpu"])
    with pytest.raises(UserError, match="--layer with it"):
        analyze.main([str(run), "ablate", "--head", "1"])
    with pytest.raises(UserError, match=r"config\.yaml"):
        analyze.main([str(tmp_path), "lens"])
    with pytest.raises(UserError, match="numbers for depth 9"):
        train.main(
            ["configs/depth_rewrite.yaml", "experiment.data.sampler.depths=[9]", "experiment.data.sampler.operands=[2, 4]"]
        )
    with pytest.raises(UserError, match="gpu-only"):
        train.main(["configs/depth_pilot.yaml", "--gpu-only", "--device", "cpu", "--out", str(tmp_path / "a")])
