"""YAML and dotted overrides to frozen dataclasses; every error of a configuration is raised here, all at once."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from yaml.resolver import BaseResolver

from jaxsrc.errors import ConfigError, UserError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML with duplicate keys refused and 3e-4 read as a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            line = key_node.start_mark.line + 1
            raise UserError(f"line {line}: key '{key}' appears twice (first in line {seen[key]}); keep one of them")
        seen[key] = key_node.start_mark.line + 1
    return loader.construct_mapping(node, deep=True)


def _number(loader: _Loader, node: yaml.ScalarNode) -> str | float:
    try:
        return float(node.value) if "e" in node.value.lower() and node.value[0] in "+-.0123456789" else node.value
    except ValueError:
        return node.value


_Loader.add_constructor(BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(BaseResolver.DEFAULT_SCALAR_TAG, _number)


def read_yaml(text: str, name: str) -> Any:
    """Parse YAML; syntax errors name the line."""
    try:
        return yaml.load(text, _Loader)
    except UserError as error:
        raise UserError(f"{name}, {error}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise UserError(f"{name}, line {line}: expected YAML, got {error.problem}; mend that line") from None
    except (yaml.YAMLError, TypeError, ValueError) as error:  # a control character, a key that is a list, a 13th month
        why = " ".join(str(error).split())
        raise UserError(f"{name}: expected YAML of plain keys and values, got: {why}; mend the file") from None


def read(path: Path) -> dict:
    """The keys and values of a YAML file; UserError where there are none, with near names for a file that is not there."""
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path("configs")
        near = difflib.get_close_matches(path.stem, [p.stem for p in sorted(folder.glob("*.yaml"))], 3, 0.4)
        offer = f"did you mean {', '.join(str(folder / f'{n}.yaml') for n in near)}?" if near else f"see {folder}/"
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"expected a configuration file, got {path}, which {what}; {offer}")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a readable YAML file, got {path}: {error}; save it as UTF-8 text") from None
    raw = read_yaml(text, str(path))
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected keys and values, got {type(raw).__name__}; start from a file in configs/")
    return raw


def _override(raw: dict, text: str) -> str | None:
    """Set one a.b=c in place; returns a problem or None."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        return f"{text}: expected key=value, for example train.steps=100"
    here: Any = raw
    parts = key.strip().split(".")
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                return f"{key}: expected an index below {len(here)}, got '{part}'"
            slot: Any = int(part)
        elif isinstance(here, dict):
            slot = part
        else:
            return f"{key}: '{part}' lies below a value, not below a section"
        if after is None:
            here[slot] = read_yaml(value, key)
        else:
            if isinstance(here, dict) and not isinstance(here.get(slot), (dict, list)):
                here[slot] = {}
            here = here[slot]
    return None


def _branches(kind: Any, value: Any) -> Iterator[Any]:
    """Dataclasses that a value of this annotation may be, the member of a union chosen by its `kind`."""
    if dataclasses.is_dataclass(kind):
        yield kind
        return
    members = [a for a in get_args(kind) if a is not type(None)]
    if get_origin(kind) in (list, tuple):
        members = members[:1]
    chosen = value.get("kind") if isinstance(value, dict) else None
    for member in members:
        for found in _branches(member, value):
            default = {f.name: f.default for f in dataclasses.fields(found)}.get("kind")
            if chosen is None or default in (None, dataclasses.MISSING, chosen):
                yield found


def _unknown(schema: Any, raw: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, problem) of every key that the schema does not know, with the nearest that it does."""
    if isinstance(raw, (list, tuple)):
        for index, item in enumerate(raw):
            yield from _unknown(schema, item, f"{path}.{index}".lstrip("."))
        return
    if not isinstance(raw, dict):
        return
    for found in _branches(schema, raw):
        hints = get_type_hints(found, include_extras=True)
        names = [f.name for f in dataclasses.fields(found)]
        for key, value in raw.items():
            where = f"{path}.{key}".lstrip(".")
            if key in names:
                yield from _unknown(hints[key], value, where)
            else:
                near = difflib.get_close_matches(str(key), names, 1, 0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(names)}"
                yield where, f"{where}: unknown key; {hint}"
        return


def load(schema: type[T], path: Path | str | None = None, overrides: Sequence[str] = ()) -> T:
    """Read a configuration file, apply `a.b=c` overrides, and build the dataclass.

    Errors: ConfigError with every problem, one line each; UserError where the file cannot be read.
    """
    raw = read(Path(path)) if path is not None else {}
    problems = [problem for text in overrides if (problem := _override(raw, text))]
    return from_dict(schema, raw, problems)


def from_dict(schema: type[T], raw: Any, problems: Sequence[str] = ()) -> T:
    """Validate plain data into the dataclass; raises ConfigError with all problems."""
    unknown = dict(_unknown(schema, raw))
    endless = [k for k, v in _flat(raw).items() if isinstance(v, float) and not math.isfinite(v)]
    found = [*problems, *unknown.values(), *(f"{key}: expected a finite number" for key in endless)]
    try:
        built = TypeAdapter(schema).validate_python(raw)
    except ValidationError as error:
        for item in error.errors():
            where = ".".join(str(p) for p in item["loc"] if not _is_tag(p, raw))
            if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
                if not any(path.endswith(str(item["loc"][-1])) for path in unknown):
                    found.append(f"{where}: unknown key")
                continue
            found.append(f"{where or 'configuration'}: {_expected(item)}, got {_got(item)}")
        raise ConfigError(found) from None
    if found:
        raise ConfigError(found)
    return built


def _is_tag(part: Any, raw: Any) -> bool:
    """Union branches appear in pydantic's paths as the tag or the class name; the user never wrote them."""
    return isinstance(part, str) and (part[:1].isupper() or part.startswith("tuple[") or _is_kind(part, raw))


def _is_kind(part: str, raw: Any) -> bool:
    if isinstance(raw, dict):
        return raw.get("kind") == part or any(_is_kind(part, v) for v in raw.values())
    return isinstance(raw, list) and any(_is_kind(part, v) for v in raw)


def _got(item: Any) -> str:
    if item["type"] == "union_tag_invalid":
        return repr(item["ctx"]["tag"])
    return type(item["input"]).__name__ if isinstance(item["input"], (dict, list)) else repr(item["input"])


def _expected(item: Any) -> str:
    """One of pydantic's errors in our words."""
    if item["type"] in ("union_tag_invalid", "union_tag_not_found"):
        return f"expected a kind among {item['ctx'].get('expected_tags', 'those of this section')}"
    message = item["msg"].replace("String should match", "Input should be text of the")
    if item["type"].endswith("parsing") or item["type"] == "int_from_float":
        message = message.split(", ")[0]  # the rest says what came
    wanted = message.removeprefix("Input should ").removeprefix("be ")
    return f"expected {wanted}" if wanted != message else message[0].lower() + message[1:]


def to_dict(config: Any) -> dict:
    """Plain data of a configuration, as `from_dict` reads it."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        return {k: v for key, item in value.items() for k, v in _flat(item, f"{path}.{key}".lstrip(".")).items()}
    if isinstance(value, (list, tuple)) and value:
        return {k: v for i, item in enumerate(value) for k, v in _flat(item, f"{path}.{i}".lstrip(".")).items()}
    return {path: value}


def differences(here: dict, there: dict) -> list[str]:
    """Leaves that differ: 'a.b: 3 here, 4 there'."""
    a, b = _flat(here), _flat(there)
    gone = "absent"
    return [
        f"{key}: {a.get(key, gone)!r} here, {b.get(key, gone)!r} there"
        for key in sorted({*a, *b})
        if a.get(key, gone) != b.get(key, gone)
    ]
