"""Arithmetic expressions with parentheses: exact values, depth of every character, JSON lines, splits that never overlap."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxsrc.errors import UserError

Tree = int | tuple[str, Any, Any]
"""A number, or (operator, left tree, right tree)."""

PRECEDENCE = {"+": 1, "-": 1, "*": 2}
LONGEST, DEEPEST = 1000, 50
"""Most characters and levels of parentheses that are read: trees are walked by recursion."""

_TOKEN = re.compile(r"\d+|[()+\-*]")


@dataclass(frozen=True)
class Expression:
    """text: without spaces; result: its exact value; depth: of every character, "(" counted inside its pair and ")" outside."""

    text: str
    result: int
    depth: tuple[int, ...]

    @property
    def nesting(self) -> int:
        """Deepest level of parentheses."""
        return max(self.depth)

    @property
    def operators(self) -> str:
        """The distinct operators in it, in the order + - *."""
        return "".join(o for o in PRECEDENCE if o in self.text)


def depths(text: str) -> tuple[int, ...]:
    """Nesting depth of every character: "(" counts one more than before it, ")" one less."""
    found, level = [], 0
    for char in text:
        level += (char == "(") - (char == ")")
        found.append(level)
    return tuple(found)


def parse(text: str) -> Tree:
    """The tree that the usual precedence gives, operators of equal rank from the left.

    Errors: UserError with the position of what is wrong; no `eval` anywhere.
    """
    deepest = max(depths(text), default=0)
    if len(text) > LONGEST or deepest > DEEPEST:
        raise UserError(
            f"expected at most {LONGEST} characters and {DEEPEST} levels of parentheses, got {len(text)} and {deepest} in "
            f"'{text[:20]}...'; shorten the expression"
        )
    tokens: list[tuple[str, int]] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise UserError(f"expected digits, + - * and parentheses, got '{text[at]}' at position {at} of '{text}'; remove it")
        tokens.append((match.group(), at))
        at = match.end()
    tokens.append(("", len(text)))
    place = 0

    def wrong(what: str) -> UserError:
        got, position = tokens[place]
        return UserError(f"expected {what}, got '{got or 'the end'}' at position {position} of '{text}'; mend the expression")

    def atom() -> Tree:
        nonlocal place
        token = tokens[place][0]
        if token.isdigit():
            place += 1
            return int(token)
        if token != "(":
            raise wrong("a number or '('")
        place += 1
        inside = chain(1)
        if tokens[place][0] != ")":
            raise wrong("')'")
        place += 1
        return inside

    def chain(rank: int) -> Tree:
        nonlocal place
        lower = atom if rank == 2 else lambda: chain(2)
        left = lower()
        while PRECEDENCE.get(tokens[place][0]) == rank:
            operator = tokens[place][0]
            place += 1
            left = (operator, left, lower())
        return left

    tree = chain(1)
    if tokens[place][0]:
        raise wrong("an operator or the end")
    return tree


def apply(operator: str, left: int, right: int) -> int:
    return left + right if operator == "+" else left - right if operator == "-" else left * right


def value(tree: Tree) -> int:
    """Exact value."""
    return tree if isinstance(tree, int) else apply(tree[0], value(tree[1]), value(tree[2]))


def largest_value(tree: Tree) -> int:
    """Largest magnitude of any number or intermediate value."""

    def walk(node: Tree) -> tuple[int, int]:
        if isinstance(node, int):
            return node, abs(node)
        (a, m), (b, n) = walk(node[1]), walk(node[2])
        result = apply(node[0], a, b)
        return result, max(m, n, abs(result))

    return walk(tree)[1]


def expression(text: str) -> Expression:
    """An expression with its exact value and depths; UserError where the text is none."""
    return Expression(text, value(parse(text)), depths(text))


def _record(line: str) -> Expression:
    try:
        found: Any = json.loads(line)
    except ValueError:
        raise UserError(f'expected a JSON object {{"expr", "result", "depth"}}, got {line[:60]!r}; mend the line') from None
    if not isinstance(found, dict) or set(found) != {"expr", "result", "depth"}:
        names = ", ".join(found) if isinstance(found, dict) else type(found).__name__
        raise UserError(f"expected the keys expr, result and depth, got {names}; mend the line")
    text, result, depth = found["expr"], found["result"], found["depth"]
    if not isinstance(text, str):
        raise UserError(f"expected expr to be a text, got {text!r}; mend the line")
    made = expression(text)
    if isinstance(result, bool) or not isinstance(result, int):
        raise UserError(f"expected result to be an integer, got {result!r}; mend the line")
    if result != made.result:
        raise UserError(f"expected the result of {text} to be {made.result}, got {result}; mend the line")
    if not isinstance(depth, list) or len(depth) != len(text):
        got = f"{len(depth)} of them" if isinstance(depth, list) else repr(depth)
        raise UserError(f"expected one depth for each of the {len(text)} characters of {text}, got {got}; mend the line")
    if tuple(depth) != made.depth:
        raise UserError(f"expected the depths of {text} to be {list(made.depth)}, got {depth}; mend the line")
    return made


def read(path: Path | str) -> list[Expression]:
    """Expressions of a JSON lines file, every one checked; UserError with the line's number."""
    try:
        lines = Path(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"expected a JSON lines file, got {path}: {error}; give the path of one") from None
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                found.append(_record(line))
            except UserError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
    if not found:
        raise UserError(f"{path}: expected at least one expression, got none; write one JSON object a line")
    return found


def write(path: Path | str, expressions: Iterable[Expression]) -> None:
    """One JSON object a line, in the study's form; the file appears whole or not at all."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    lines = (json.dumps({"expr": e.text, "result": e.result, "depth": list(e.depth)}) for e in expressions)
    temporary.write_text("".join(line + "\n" for line in lines))
    os.replace(temporary, target)


def overlap(splits: Mapping[str, Sequence[Expression]]) -> list[tuple[str, str, str]]:
    """(first split, second split, text) of every expression that two splits share."""
    home: dict[str, str] = {}
    shared = []
    for name, items in splits.items():
        for text in dict.fromkeys(e.text for e in items):
            if text in home:
                shared.append((home[text], name, text))
            else:
                home[text] = name
    return shared


def refuse_overlap(splits: Mapping[str, Sequence[Expression]]) -> None:
    """UserError naming an expression that is in two splits."""
    shared = overlap(splits)
    if shared:
        first, second, text = shared[0]
        raise UserError(
            f"expected splits without common expressions, got {len(shared)}, such as {text} in {first} and {second}; "
            "remove them from one of the two"
        )
