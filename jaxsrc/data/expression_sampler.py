"""Random expressions of a wanted depth and length whose every pair of parentheses is needed."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from jaxsrc.data.expressions import PRECEDENCE, Expression, Tree, depths, largest_value, parse, value
from jaxsrc.errors import UserError

TRIES = 20_000


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """depths: drawn uniformly; operands: numbers in an expression, from least to most, never fewer than the depth needs;
    numbers: uniform from 1 to this; limit: largest magnitude of any intermediate value."""

    depths: tuple[Annotated[int, Field(ge=0, le=30)], ...] = (0, 1, 2)
    operands: tuple[int, int] = (2, 4)
    operators: str = "+-*"
    numbers: Annotated[int, Field(ge=1)] = 99
    limit: Annotated[int, Field(ge=1)] = 99_999_999


def fewest(depth: int, operators: str) -> int:
    """Least count of numbers in an expression of this depth.

    A level costs one number where there is a minus, as in a-(b-c); with + and * alone it costs two but for the first.
    Errors: UserError where no expression of the operators needs parentheses.
    """
    if depth == 0:
        return 2
    if "-" not in operators and not {"+", "*"} <= set(operators):
        raise UserError(
            f"expected operators that can need parentheses (a minus, or + and *), got '{operators}'; add one, or ask for depth 0"
        )
    return depth + 2 if "-" in operators else 2 * depth + 1


def check(config: SamplerConfig) -> None:
    """UserError for a configuration that no expression meets."""
    unknown = sorted(set(config.operators) - set(PRECEDENCE))
    if unknown or not config.operators:
        raise UserError(f"operators: expected some of + - *, got '{config.operators}'; name at least one of them")
    low, high = config.operands
    if not 2 <= low <= high:
        raise UserError(f"operands: expected 2 <= least <= most, got {low} and {high}; change them")
    if not config.depths:
        raise UserError("depths: expected at least one, got none; add 0")
    for depth in config.depths:
        if fewest(depth, config.operators) > high:
            raise UserError(
                f"operands: expected at least {fewest(depth, config.operators)} numbers for depth {depth}, got at most {high}; "
                "raise operands or lower depths"
            )


def _closed(node: Tree, operator: str, right: bool) -> bool:
    """Whether a node needs parentheses as an operand."""
    if isinstance(node, int):
        return False
    rank = PRECEDENCE[node[0]]
    return rank < PRECEDENCE[operator] or (right and operator == "-" and rank == 1)


def render(tree: Tree) -> str:
    """The text of a tree's value with the parentheses that it needs and no other."""
    if isinstance(tree, int):
        return str(tree)
    operator, left, right = tree
    part = lambda node, r: f"({render(node)})" if _closed(node, operator, r) else render(node)
    return part(left, False) + operator + part(right, True)


def _random_tree(rng: random.Random, size: int, config: SamplerConfig) -> Tree:
    if size == 1:
        return rng.randint(1, config.numbers)
    left = rng.randint(1, size - 1)
    first = _random_tree(rng, left, config)
    return (rng.choice(config.operators), first, _random_tree(rng, size - left, config))


def _need(levels: int, product: bool, minus: bool) -> int:
    """Numbers still needed to wrap something `levels` times more: a product must first become a sum."""
    if levels == 0:
        return 0
    return levels + product if minus else 2 * levels - 1 + product


def _nested(rng: random.Random, depth: int, operands: int, config: SamplerConfig) -> Tree:
    """A tree around a spine of `depth` wraps; what hangs on the spine may be deeper, so the caller checks."""
    sums = [o for o in config.operators if o in "+-"]
    minus, times = "-" in sums, "*" in config.operators
    leaf = lambda: rng.randint(1, config.numbers)
    tree: Tree = (rng.choice(sums if depth else config.operators), leaf(), leaf())
    left = operands - 2

    def sibling(spare: int) -> Tree:
        nonlocal left
        size = 1 + (rng.randint(0, spare) if spare > 0 and rng.random() < 0.6 else 0)
        left -= size
        return _random_tree(rng, size, config)

    for level in range(depth, 0, -1):
        product = isinstance(tree, tuple) and tree[0] == "*"
        if product:  # only a sum needs parentheses
            operator = rng.choice(sums)
            other = sibling(left - 1 - _need(level, False, minus))
            tree = (operator, tree, other) if rng.random() < 0.5 else (operator, other, tree)
        after = lambda p, level=level: left - 1 - _need(level - 1, p, minus)
        options = ["-"] * (minus and after(False) >= 0) + ["*"] * (2 * (times and after(True) >= 0))
        operator = rng.choice(options)
        other = sibling(after(operator == "*"))
        tree = (operator, other, tree) if operator == "-" or rng.random() < 0.5 else (operator, tree, other)
    if left > 0:
        operator = rng.choice(sums or list(config.operators))
        tree = (operator, tree, _random_tree(rng, left, config))
    return tree


def sample(rng: random.Random, config: SamplerConfig, depth: int) -> Expression:
    """One expression of exactly this depth.

    Errors: UserError where none is found: a limit that the operands exceed.
    """
    low, high = config.operands
    for _ in range(TRIES):
        operands = rng.randint(max(low, fewest(depth, config.operators)), high)
        flat = depth == 0
        tree = _random_tree(rng, operands, config) if flat else _nested(rng, depth, operands, config)
        text = render(tree)
        found = depths(text)
        if max(found) != depth:
            continue
        parsed = parse(text)
        if largest_value(parsed) <= config.limit:
            return Expression(text, value(parsed), found)
    raise UserError(
        f"expected expressions of depth {depth} with {low} to {high} numbers within {config.limit}, found none in {TRIES} tries; "
        "raise limit or lower operands"
    )


def sample_many(seed: int, count: int, config: SamplerConfig, avoid: Collection[str] = ()) -> list[Expression]:
    """`count` different expressions, none of them in `avoid`; the same for the same arguments.

    Errors: UserError where there are not so many.
    """
    check(config)
    rng = random.Random(f"{seed}/{config}")
    seen, found, misses = set(avoid), [], 0
    while len(found) < count:
        one = sample(rng, config, rng.choice(config.depths))
        if one.text in seen:
            misses += 1
            if misses > 1000 + 10 * count:
                raise UserError(f"expected {count} different expressions, found {len(found)}; ask for fewer or widen the sampler")
            continue
        seen.add(one.text)
        found.append(one)
    return found


def splits(seed: int, sizes: Sequence[tuple[str, int, SamplerConfig]]) -> dict[str, list[Expression]]:
    """Named samples, drawn in order, that share no expression."""
    made: dict[str, list[Expression]] = {}
    taken: set[str] = set()
    for name, count, config in sizes:
        made[name] = sample_many(seed, count, config, taken)
        taken |= {e.text for e in made[name]}
    return made
