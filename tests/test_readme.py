"""The README and the configurations say only what is there."""

import re
import shlex
from pathlib import Path

import pytest

from jaxsrc import analyze, bench, depth_compare, evaluate, extract, submission, train

README = Path("README.md").read_text()
CONFIGS = sorted(Path("configs").glob("*.yaml"))
COMMANDS = re.findall(r"(?m)^(python -m jaxsrc\.\S+.*?)(?:\s{2,}#.*)?$", README)


def test_files_that_the_readme_names_exist():
    named = set(re.findall(r"\b((?:scripts|configs|tests|jaxsrc|torch_bridge)/[\w./]*\w)", README))
    assert len(named) >= 3
    assert [n for n in sorted(named) if not Path(n).exists()] == []


def test_the_layout_names_real_files():
    block = README[README.index("How the code is laid out") :]
    inside = block[block.index("```") + 3 :]
    inside = inside[: inside.index("```")]
    names = re.findall(r"\b[\w/]+\.py\b", inside)
    assert len(names) > 15
    assert [n for n in names if not (Path("jaxsrc") / n).exists() and not (Path("torch_bridge") / n).exists()] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_options_that_the_readme_names_are_known(command, capsys):
    commands = (train, evaluate, bench, analyze, depth_compare, extract, submission)
    modules = {m.__name__.removeprefix("jaxsrc."): m for m in commands}
    words = shlex.split(command.replace("[", "").replace("]", ""))
    name = words[2].removeprefix("jaxsrc.")
    line = next(row for row in README.splitlines() if command in row)
    with pytest.raises(SystemExit):
        modules[name].main([*(words[3:4] if name == "bench" else []), "--help"])
    helped = capsys.readouterr().out
    for option in re.findall(r"--[\w-]+", line):
        assert option in helped, f"{option} of {name}"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_configuration_opens_with_command_hardware_time_and_result(path):
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    for word in ("command", "hardware", "time", "result"):
        assert any(line.startswith(f"# {word}") for line in head), f"{path}: no line '# {word}'"


def test_nothing_is_too_big_to_clone():
    for path in [*Path("configs").rglob("*"), *Path("tests").rglob("*")]:
        assert path.is_dir() or path.stat().st_size < 500_000, path
