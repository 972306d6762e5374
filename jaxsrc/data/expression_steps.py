"""Reduction by small steps: which characters are reduced next, what they become, and the chain of texts that follows."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from jaxsrc.data.expressions import apply
from jaxsrc.errors import UserError

NUMBER = re.compile(r"~?\d+")
_PAIR = re.compile(r"\(?(~?\d+)([+\-*])(~?\d+)\)?")
_GROUP = re.compile(r"\([^()]*\)")
_ALONE = re.compile(r"\((~?\d+)\)")


@dataclass(frozen=True)
class Step:
    """text: before it; [start, stop): the characters that it replaces; new: what they become, a number or an easier expression
    that is worked out by steps of its own; result: the number that stands there afterwards."""

    text: str
    start: int
    stop: int
    new: str
    result: str

    @property
    def site(self) -> str:
        return self.text[self.start : self.stop]

    @property
    def after(self) -> str:
        return self.text[: self.start] + self.result + self.text[self.stop :]


def to_int(number: str) -> int:
    """~12 is minus twelve."""
    return -int(number[1:]) if number.startswith("~") else int(number)


def of_int(number: int) -> str:
    return f"~{-number}" if number < 0 else str(number)


def sites(text: str) -> list[tuple[int, int]]:
    """Characters that can be replaced now, from left to right; none where nothing but a number is left.

    Every group without parentheses in it (the whole text, where it has none) has one: its first product, else its first sum
    or difference. Its parentheses go with it if nothing else is inside. What lies outside a group has no say in it, so that
    the rule is the same at every depth.
    """
    groups = [(m.start(), m.end()) for m in _GROUP.finditer(text)] if "(" in text else [(0, len(text))]
    found = [_in_group(text, *group) for group in groups]
    return [span for span in found if span is not None]


def _in_group(text: str, start: int, stop: int) -> tuple[int, int] | None:
    numbers = list(NUMBER.finditer(text, start, stop))
    closed = text[start] == "("
    if not numbers:
        raise UserError(f"expected a number between parentheses, got '{text}'; mend the expression")
    if len(numbers) == 1:
        return (start, stop) if closed else None
    if len(numbers) == 2 and closed:
        return start, stop
    products = [i for i in range(len(numbers) - 1) if text[numbers[i].end()] == "*"]
    chosen = products[0] if products else 0
    return numbers[chosen].start(), numbers[chosen + 1].end()


def reduced(chosen: str) -> str:
    """What replaces a site: a number, or for a product that takes more than one product of digits the sum of two easier ones.

    Two longer factors: a * b = (a * (b mod 10) + 10 a * (b div 10)). A digit d and a longer number a with more than one digit
    that is not 0: a * d = (l * d + (a - l) * d), l the last such digit with its zeros. The sign of the product goes with the
    first factor. Errors: UserError for no site.
    """
    alone = _ALONE.fullmatch(chosen)
    if alone:
        return alone.group(1)
    a, operator, b = parts(chosen)
    if operator != "*":
        return of_int(a + b if operator == "+" else a - b)
    sign = "~" if (a < 0) != (b < 0) else ""
    low, high = sorted((abs(a), abs(b)))
    if low >= 10:
        a, b = abs(a), abs(b)
        return f"{sign}{a}*{b % 10}+{sign}{a}0*{b // 10}"
    zeros = len(str(high)) - len(str(high).rstrip("0"))
    last = high % 10 ** (zeros + 1)  # the last digit that is not 0, with its zeros
    if low == 0 or last == high:
        return of_int(a * b)
    return f"{sign}{last}*{low}+{sign}{high - last}*{low}"


def next_step(text: str) -> Step | None:
    """The first site of a text, and what becomes of it; None where there is none."""
    found = sites(text)
    if not found:
        return None
    chosen = text[found[0][0] : found[0][1]]
    return Step(text, *found[0], reduced(chosen), _value(chosen))


def _value(chosen: str) -> str:
    if _ALONE.fullmatch(chosen):
        return reduced(chosen)
    a, operator, b = parts(chosen)
    return of_int(apply(operator, a, b))


def chain(text: str) -> list[Step]:
    """All steps from an expression to its value; after a step whose `new` is an expression come the steps of that one."""
    steps = []
    step = next_step(text)
    while step is not None:
        steps.append(step)
        if step.new != step.result:
            steps += chain(step.new)
        step = next_step(step.after)
    return steps


def outline(text: str) -> list[str]:
    """The texts from an expression to its value without the ones inside products."""
    texts = [text]
    step = next_step(text)
    while step is not None:
        texts.append(step.after)
        step = next_step(step.after)
    return texts


def drill(rng: random.Random, digits: int, limit: int) -> str:
    """A random site, its numbers and its value within `limit`; see `_drawn`."""
    while True:
        text = _drawn(rng, digits)
        a, operator, b = parts(text)
        if max(abs(a), abs(b), abs(apply(operator, a, b))) <= limit:
            return text


def parts(site: str) -> tuple[int, str, int]:
    """Both numbers of a site and its operator; UserError for no site."""
    match = _PAIR.fullmatch(site)
    if match is None:
        raise UserError(f"expected two numbers and an operator, got '{site}'; mend it")
    return to_int(match.group(1)), match.group(2), to_int(match.group(3))


def _drawn(rng: random.Random, digits: int) -> str:
    """Numbers of up to `digits` digits (in a product together); many close numbers, many products by a digit."""
    sign = lambda: "~" if rng.random() < 0.25 else ""
    number = lambda n: rng.randint(10 ** (n - 1) if n > 1 else 0, 10**n - 1)
    operator = rng.choice("+-*")
    n = rng.randint(1, digits if operator != "*" else digits - 1)
    m = rng.randint(1, digits if operator != "*" else digits - n)
    a, b = number(n), number(m)
    if operator != "*" and rng.random() < 0.3:  # as long, and alike in its first digits
        kept = 10 ** rng.randint(0, n)
        b = a // kept * kept + rng.randrange(kept)
    if operator == "*" and rng.random() < 0.75:
        a, b = (a, b % 10) if rng.random() < 0.8 else (a % 10, b)
        if a > 9 and rng.random() < 0.6:  # one digit and zeros
            a = a // 10 ** (len(str(a)) - 1) * 10 ** (len(str(a)) - 1)
    signed = lambda x: (sign() if x else "") + str(x)
    return signed(a) + operator + signed(b)
