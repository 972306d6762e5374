"""Characters to numbers and back: the study's vocabulary, and the one of the rewriting track."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from jaxsrc.errors import UserError

PAD, BOS, EOS, UNKNOWN = 0, 1, 2, 3
FIRST_DIGIT = 4
"""Both vocabularies begin with the four special tokens and the ten digits, so that digits have the same numbers."""


@dataclass(frozen=True)
class Vocabulary:
    """characters: in the order of their numbers, after PAD, BOS, EOS and UNKNOWN."""

    characters: str

    def __len__(self) -> int:
        return len(self.characters) + 4

    def encode(self, text: str) -> list[int]:
        """Numbers of the characters; UserError for one that is not in the vocabulary."""
        found = [self.characters.find(c) for c in text]
        if -1 in found:
            at = found.index(-1)
            raise UserError(f"expected characters of '{self.characters}', got '{text[at]}' at position {at} of '{text}'")
        return [i + 4 for i in found]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text up to the first EOS or PAD; BOS is dropped, UNKNOWN is '?'."""
        text = ""
        for token in tokens:
            if token in (EOS, PAD):
                break
            text += "" if token == BOS else "?" if token == UNKNOWN else self.characters[int(token) - 4]
        return text

    def one(self, character: str) -> int:
        return self.encode(character)[0]


STUDY = Vocabulary("0123456789+-*/()=ABCDEFabcdef ,")
REWRITE = Vocabulary("0123456789+-*~()=kt")
"""~ is the sign of a negative number (- only subtracts); k and t: a character is kept, or taken to be replaced."""


def reverse_numbers(text: str) -> str:
    """Every run of digits backwards, units first: the order in which carries arise. Its own inverse."""
    return re.sub(r"\d+", lambda m: m.group()[::-1], text)


def pad(rows: Sequence[Sequence[int]], length: int) -> np.ndarray:
    """int8[rows, length], PAD at the right.

    Errors: UserError for a row that is too long; nothing is ever cut short.
    """
    longest = max(map(len, rows), default=0)
    if longest > length:
        raise UserError(f"expected at most {length} tokens, got {longest}; raise the model's length or shorten the expressions")
    out = np.full((len(rows), length), PAD, np.int8)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out
