"""The data of the step-free arithmetic study (N. Thomas, 2026), drawn again number for number from its seed 42."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from jaxsrc.data.expressions import Expression, expression
from jaxsrc.errors import UserError

NUMBERS = (1, 99)
OPERATORS = ("+", "-", "*")

# By depth and count of numbers: n a number, o an operator. Where there are several, a uniform draw chooses first, then all
# numbers are drawn and then all operators; where there is one, they are drawn in the order of the text.
TEMPLATES: dict[int, dict[int, tuple[str, ...]]] = {
    0: {2: ("non",), 3: ("nonon",), 4: ("nononon",)},
    1: {
        2: ("(non)",),
        3: ("(non)on", "no(non)", "(nonon)"),
        4: ("(non)o(non)", "(nonon)on", "no(nonon)"),
    },
    2: {
        2: ("((non))",),
        3: ("((non)on)", "(no(non))", "((non))on", "no((non))"),
        4: ("((non)o(non))", "(no(non))on", "no((non)on)"),
    },
    3: {
        2: ("(((non)))",),
        # the third and the fifth do not close what they open: they are drawn and thrown away
        3: ("(((non)on))", "((no(non)))", "(((non))on", "no(((non)))", "(((non))o(n)", "(n)o(((non)))"),
        4: ("(((non)on)on)", "((no(non))on)", "(((non))o(non))", "(no((non)on))"),
    },
}


@dataclass(frozen=True)
class StudyData:
    """Its splits. One expression of `paren` is in `train` too; nothing is taken out, this is the study's data as it is."""

    train: list[Expression]
    val: list[Expression]
    flat: list[Expression]
    paren: list[Expression]
    depth3: list[Expression]

    def split(self, name: str) -> list[Expression]:
        """A split by name; UserError for another name."""
        names = ("train", "val", "flat", "paren", "depth3")
        if name not in names:
            raise UserError(f"expected one of {', '.join(names)}, got '{name}'; choose one of them")
        return getattr(self, name)


def draw(rng: random.Random, depth: int, count: int) -> str:
    """The next text of the study's stream; it may be unbalanced."""
    choices = TEMPLATES[depth][count]
    if len(choices) == 1:
        fill = lambda m: str(rng.randint(*NUMBERS)) if m.group() == "n" else rng.choice(OPERATORS)
        return re.sub("[no]", fill, choices[0])
    template = choices[rng.randint(0, len(choices) - 1)]
    numbers = iter([str(rng.randint(*NUMBERS)) for _ in range(count)])
    operators = iter([rng.choice(OPERATORS) for _ in range(count - 1)])
    return re.sub("[no]", lambda m: next(numbers if m.group() == "n" else operators), template)


def entropy() -> float:
    """Nats of one expression of `train`: count, depth, template, numbers and operators are drawn uniformly and can be read back.

    Divided by the tokens that are predicted it is the least loss a token that any model reaches on fresh expressions, when every
    token counts: the results cost nothing, the random expressions cannot be foreseen.
    """
    total = 0.0
    for depth in (0, 1, 2):
        for count in (2, 3, 4):
            numbers, operators = count * math.log(NUMBERS[1]), (count - 1) * math.log(len(OPERATORS))
            total += (2 * math.log(3) + math.log(len(TEMPLATES[depth][count])) + numbers + operators) / 9
    return total


def predicted(items: Sequence[Expression]) -> float:
    """Tokens of an expression that are predicted, on average: its characters, " = ", the result and EOS."""
    return sum(len(e.text) + 3 + len(str(e.result)) + 1 for e in items) / len(items)


def _next(rng: random.Random, parens: bool) -> str:
    count = rng.randint(2, 4)
    return draw(rng, rng.randint(0, 2) if parens else 0, count)


@lru_cache(1)
def study_data(seed: int = 42) -> StudyData:
    """All splits; 2000, 200, 100, 100 of one stream, and 100 of exactly depth 3 of another from the same seed."""
    rng = random.Random(seed)
    take = lambda n, parens: [expression(_next(rng, parens)) for _ in range(n)]
    train, val, flat = take(2000, True), take(200, True), take(100, False)
    paren: list[Expression] = []
    while len(paren) < 100:
        text = _next(rng, True)
        if "(" in text:
            paren.append(expression(text))
    rng = random.Random(seed)
    deep: list[Expression] = []
    while len(deep) < 100:
        text = draw(rng, 3, rng.randint(2, 4))
        if text.count("(") == text.count(")"):
            deep.append(expression(text))
    return StudyData(train, val, flat, paren, deep)
