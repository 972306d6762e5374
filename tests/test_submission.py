"""Submissions: written, read back and scored; refused for everything that the competition would refuse."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsrc import submission
from jaxsrc.data.arc import Pair, Task
from jaxsrc.data.arc_files import load
from jaxsrc.errors import UserError
from tests.damage import changed

GOOD = {
    "a": [{"attempt_1": [[1, 2]], "attempt_2": [[0]]}, {"attempt_1": [[3]], "attempt_2": [[4]]}],
    "b": [{"attempt_1": [[5]], "attempt_2": [[6]]}],
}


def grid(*rows):
    return np.array(rows, np.uint8)


def tasks(hidden=False):
    demo = (Pair(grid([1]), grid([2])),)
    truth = lambda g: None if hidden else g
    return (
        Task("a", "made", demo, (Pair(grid([9]), truth(grid([1, 2]))), Pair(grid([8]), truth(grid([4]))))),
        Task("b", "made", demo, (Pair(grid([7]), truth(grid([0]))),)),
    )


def saved(folder, content):
    path = folder / "submission.json"
    path.write_text(json.dumps(content))
    return path


def test_what_is_written_is_read_back(tmp_path):
    answers = {"a": [[grid([1, 2]), grid([3])], [grid([0]), grid([4])], [grid([9]), grid([9])]], "b": [[grid([5])]]}
    path = submission.write(tmp_path / "new" / "submission.json", tasks(hidden=True), answers)
    content = json.loads(path.read_text())
    assert content == {**GOOD, "b": [{"attempt_1": [[5]], "attempt_2": [[5]]}]}
    found = submission.validate(path, tasks(hidden=True))
    assert [[g.tolist() for g in attempt] for attempt in found["a"]] == [[[[1, 2]], [[3]]], [[[0]], [[4]]]]
    assert os.listdir(path.parent) == ["submission.json"]


def test_tasks_without_an_answer_get_their_test_input(tmp_path):
    path = submission.write(tmp_path / "s.json", tasks(), {"b": []})
    assert json.loads(path.read_text())["a"] == [{"attempt_1": [[n]], "attempt_2": [[n]]} for n in (9, 8)]


@pytest.mark.parametrize("bad", [np.zeros((31, 1), int), np.array([[10]]), np.array([[0.5]]), np.zeros((0, 2), int)])
def test_a_bad_grid_is_not_written_and_the_old_file_stays(tmp_path, bad):
    path = saved(tmp_path, GOOD)
    with pytest.raises(UserError, match=r"the submission to write: task b: test 0: attempt_2: "):
        submission.write(path, tasks(), {"b": [[grid([1])], [bad]]})
    assert json.loads(path.read_text()) == GOOD


def test_a_full_disk_keeps_the_old_file(tmp_path, monkeypatch):
    path = saved(tmp_path, GOOD)
    whole = Path.write_text

    def full(self, text, **kwargs):
        whole(self, text[:5], **kwargs)
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device; name another place"):
        submission.write(path, tasks(), {})
    assert json.loads(path.read_text()) == GOOD and os.listdir(tmp_path) == ["submission.json"]


def test_score_by_output_and_by_task(tmp_path):
    found = submission.score(saved(tmp_path, GOOD), tasks())
    assert (found.outputs_solved, found.outputs, found.tasks_solved, found.tasks) == (2, 3, 1, 2)
    assert str(found).startswith("2 of 3 test outputs (66.7%), 1 of 2 tasks whole (50.0%, 95 % interval 9.5% to 90.5%)")
    with pytest.raises(UserError, match="task a of made: expected known test outputs to score, got 2 hidden"):
        submission.score(saved(tmp_path, GOOD), tasks(hidden=True))


def test_the_truth_scores_everything_and_is_kaggles_format(tmp_path):
    real = load("arcagi2:evaluation")
    answers = {t.id: [[p.output for p in t.test if p.output is not None]] for t in real}
    path = submission.write(tmp_path / "s.json", real, answers)
    found = submission.score(path, real)
    assert (found.outputs_solved, found.outputs, found.tasks_solved, found.tasks) == (167, 167, 120, 120)
    solutions = {name: [g.tolist() for g in grids[0]] for name, grids in answers.items()}
    (tmp_path / "solutions.json").write_text(json.dumps(solutions))
    assert submission.score_truths(path, submission.read_solutions(tmp_path / "solutions.json")) == found


@pytest.mark.parametrize(
    "content, line",
    [
        ([], "expected an object of task ids, got list"),
        (changed(GOOD, ["b"], None), "expected exactly the 2 task ids, got 1 missing (b) and 0 unknown"),
        (changed(GOOD, ["c"], []), "got 0 missing and 1 unknown (c)"),
        (changed(GOOD, ["a", 1], None), "task a: expected a list of 2 entries, got 1"),
        (changed(GOOD, ["b"], {"attempt_1": [[1]]}), "task b: expected a list of 1 entries, got dict"),
        (changed(GOOD, ["a", 1], [[1]]), "task a: test 1: expected attempt_1 and attempt_2, got list"),
        (changed(GOOD, ["a", 1, "attempt_2"], None), "task a: test 1: expected attempt_1 and attempt_2, got attempt_1"),
        (changed(GOOD, ["a", 1, "attempt_3"], [[1]]), "got attempt_1, attempt_2, attempt_3"),
        (changed(GOOD, ["a", 1], {}), "expected attempt_1 and attempt_2, got none"),
        (changed(GOOD, ["a", 1, "attempt_2"], []), "task a: test 1: attempt_2: expected a grid"),
        (changed(GOOD, ["a", 1, "attempt_2"], [[1, 2], [3]]), "expected a rectangular grid"),
        (changed(GOOD, ["a", 1, "attempt_2"], [[0] * 31]), "expected sides of 1-30"),
        (changed(GOOD, ["a", 1, "attempt_2"], [[10]]), "row 0, column 0: expected a colour as an integer 0-9, got 10"),
        (changed(GOOD, ["a", 1, "attempt_2"], [[1.0]]), "expected a colour as an integer 0-9, got 1.0"),
    ],
)
def test_what_is_refused(tmp_path, content, line):
    path = saved(tmp_path, content)
    with pytest.raises(UserError) as error:
        submission.validate(path, tasks())
    assert str(error.value).startswith(str(path)) and line in str(error.value) and "\n" not in str(error.value)


def test_a_task_id_given_twice_is_refused(tmp_path):
    path = tmp_path / "s.json"
    path.write_text('{"b": [], "b": []}')
    with pytest.raises(UserError, match="the key 'b' twice"):
        submission.validate(path, tasks())


def test_command_line(tmp_path, capsys):
    path = saved(tmp_path, GOOD)
    solutions = tmp_path / "solutions.json"
    solutions.write_text(json.dumps({"a": [[[1, 2]], [[4]]], "b": [[[0]]]}))
    assert submission.main(["validate", str(path), "--solutions", str(solutions)]) == 0
    assert submission.main(["score", str(path), "--solutions", str(solutions)]) == 0
    valid, scored = capsys.readouterr().out.splitlines()
    assert valid == f"{path}: a valid submission for 2 tasks, 3 test inputs"
    assert scored.startswith(f"{path}: 2 of 3 test outputs (66.7%), 1 of 2 tasks whole")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for task in tasks(hidden=True):
        train = [{"input": pair.input.tolist(), "output": [[1]]} for pair in task.train]
        test = [{"input": pair.input.tolist()} for pair in task.test]
        (folder / f"{task.id}.json").write_text(json.dumps({"train": train, "test": test}))
    assert submission.main(["validate", str(path), "--tasks", str(folder)]) == 0
    with pytest.raises(UserError, match="got 2 hidden; score a set with solutions"):
        submission.main(["score", str(path), "--tasks", str(folder)])


def test_the_process_prints_one_line_and_exits_with_2(tmp_path):
    path = saved(tmp_path, GOOD)
    ran = subprocess.run(
        [sys.executable, "-m", "jaxsrc.submission", "validate", str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert ran.returncode == 2 and ran.stdout == "" and ran.stderr.count("\n") == 1
    assert ran.stderr.startswith(f"error: {path}: expected exactly the 400 task ids, got 400 missing (00576224, ")
