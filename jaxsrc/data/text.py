"""Text as tokens in memory: bytes, or the BPE of a given tokenizer file; windows as a pure function of (seed, step).

Sources: nothing, which is the Python standard library's own source; a file; a folder of text files; or a folder in the WikiText
layout (wiki.train.tokens or train.txt, wiki.valid.tokens or valid.txt). Where the source names no validation part, the end of
each file is held out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from jaxsrc.errors import UserError

BYTES = 256
SPLITS = {
    "train": ("wiki.train.tokens", "wiki.train.raw", "train.txt"),
    "valid": ("wiki.valid.tokens", "wiki.valid.raw", "valid.txt"),
}
ENDINGS = (".txt", ".md", ".py", ".tokens", ".raw", ".rst", ".text")
LIMIT = 2**31 - 1  # bytes of one source; tokens are indexed by int32


@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """source: file or folder of text, '' for the Python standard library's source; tokenizer: a tokenizer.json of the
    tokenizers library, '' for bytes; held_out: share of every file, at its end, that validates where the source has
    no validation part; windows: validation windows that `validate` scores, 0 for all."""

    source: str = ""
    tokenizer: str = ""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.1
    windows: Annotated[int, Field(ge=0)] = 64


@dataclass(frozen=True)
class Text:
    """Tokens of both parts, uint8, uint16 or int32, with the bytes they stand for; `name` says where they come from."""

    train: np.ndarray
    valid: np.ndarray
    vocabulary: int
    valid_bytes: int
    name: str

    def batch_at(self, seed: int, step: int, batch: int, length: int) -> np.ndarray:
        """int32[batch, length + 1]: windows at places drawn from (seed, step); the last token is only ever a target."""
        starts = np.random.default_rng((seed, step)).integers(0, len(self.train) - length, batch)
        return self.at(starts, length)

    def at(self, starts: np.ndarray, length: int) -> np.ndarray:
        """int32[w, length + 1]: windows of the training part from the places int[w] on."""
        return self.train[starts[:, None] + np.arange(length + 1)].astype(np.int32)

    def windows(self, length: int, limit: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The validation part in consecutive windows: tokens int32[w, length + 1], targets that count float32[w, length].

        Every token but the very first is a target once; the last window is padded with weight 0. limit: windows, spread
        evenly over the part; 0 for all.
        """
        tokens = self.valid.astype(np.int32)
        count = -(-(len(tokens) - 1) // length)
        chosen = np.arange(count)
        if 0 < limit < count:
            chosen = np.linspace(0, count - 1, limit).round().astype(int)
        padded = np.concatenate([tokens, np.zeros(length, np.int32)])
        at = chosen[:, None] * length + np.arange(length + 1)
        return padded[at], (at[:, 1:] < len(tokens)).astype(np.float32)

    @property
    def bytes_per_token(self) -> float:
        return self.valid_bytes / len(self.valid)


def library_source() -> list[Path]:
    """Files of the Python standard library that every installation has: top-level modules and a few packages."""
    root = Path(os.__file__).parent
    folders = [root, *(root / n for n in ("asyncio", "collections", "concurrent/futures", "email", "http", "json", "logging"))]
    return sorted(p for folder in folders for p in folder.glob("*.py"))


def _decode(path: Path) -> bytes:
    """The file's bytes; UserError where they are no text."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"expected a readable text file, got {path}: {error.strerror}; check its name and rights") from None
    if b"\0" in raw[:65536]:
        raise UserError(f"expected text, got {path} with zero bytes in it; it is binary, name a text file")
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{raw[error.start]:02x} at {error.start}"
        raise UserError(f"expected UTF-8 text, got {path} with {byte}; it is binary or of another encoding: convert it") from None
    return raw


def _wikitext(folder: Path, part: str) -> Path | None:
    return next((folder / n for n in SPLITS[part] if (folder / n).is_file()), None)


def read_source(source: str) -> tuple[list[bytes], list[bytes] | None, str]:
    """(documents to train on, documents to validate on or None, what it is).

    Errors: UserError for a missing, empty or binary source.
    """
    if not source:
        import platform

        files, name = library_source(), f"source of Python {platform.python_version()}"
        return [_decode(p) for p in files], None, name
    path = Path(source).expanduser()
    if path.is_file():
        return [_decode(path)], None, path.name
    if not path.is_dir():
        raise UserError(f"experiment.data.source: expected a text file or a folder, got {source}, which does not exist")
    train, valid = _wikitext(path, "train"), _wikitext(path, "valid")
    if train and valid:
        return [_decode(train)], [_decode(valid)], f"{path.name} (WikiText layout)"
    if train or valid:
        missing = "valid" if train else "train"
        raise UserError(f"expected one of {', '.join(SPLITS[missing])} in {path}, got none; add it, or name the file itself")
    files = sorted(p for p in path.rglob("*") if p.suffix in ENDINGS and p.is_file())
    if not files:
        raise UserError(f"expected text files ({', '.join(ENDINGS)}) in {path}, got none; name another folder or a file")
    return [_decode(p) for p in files], None, f"{len(files)} files of {path.name}"


def encoder(tokenizer: str):
    """(bytes -> token array, vocabulary); a tokenizer's special tokens are left out."""
    if not tokenizer:
        return (lambda raw: np.frombuffer(raw, np.uint8)), BYTES
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise UserError(
            'expected the tokenizers library for experiment.data.tokenizer, got none; scripts/setup bridge brings it'
        ) from None
    if not Path(tokenizer).is_file():
        raise UserError(f"experiment.data.tokenizer: expected a tokenizer.json, got {tokenizer}, no such file; '' means bytes")
    try:
        made = Tokenizer.from_file(tokenizer)
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"experiment.data.tokenizer: expected a tokenizer.json, got {tokenizer}: {error}") from None
    size = made.get_vocab_size()
    kind = np.uint16 if size <= 2**16 else np.int32
    return (lambda raw: np.asarray(made.encode(raw.decode(), add_special_tokens=False).ids, kind)), size


def decoder(tokenizer: str):
    """Token array -> text, the other way."""
    if not tokenizer:
        return lambda tokens: bytes(np.asarray(tokens, np.uint8)).decode("utf-8", "replace")
    from tokenizers import Tokenizer

    made = Tokenizer.from_file(tokenizer)
    return lambda tokens: made.decode([int(t) for t in tokens])


def read_text(config: TextDataConfig, length: int) -> Text:
    """Read and encode a source; at least one window of `length` + 1 tokens in each part.

    Errors: UserError for a source that is missing, empty, binary, or too short.
    """
    documents, held, name = read_source(config.source)
    if held is None:
        # off the end of every document, so that both parts are of one kind
        cut = [len(d) - round(len(d) * config.held_out) for d in documents]
        cut = [_boundary(d, c) for d, c in zip(documents, cut, strict=True)]
        held = [d[c:] for d, c in zip(documents, cut, strict=True)]
        documents = [d[:c] for d, c in zip(documents, cut, strict=True)]
    total = sum(map(len, documents)) + sum(map(len, held))
    if not total:
        raise UserError(f"expected text in {config.source or name}, got an empty source; name another file")
    if total > LIMIT:
        raise UserError(f"expected at most {LIMIT} bytes of text, got {total}; split the source")
    encode, vocabulary = encoder(config.tokenizer)
    train, valid = (np.concatenate([encode(d) for d in part if d] or [np.zeros(0, np.uint8)]) for part in (documents, held))
    for part, tokens in (("training", train), ("validation", valid)):
        if len(tokens) < length + 1:
            raise UserError(
                f"expected at least {length + 1} {part} tokens for windows of {length}, got {len(tokens)} in {name}; "
                "lower experiment.model.length, or give more text"
            )
    return Text(train, valid, vocabulary, sum(map(len, held)), name)


def _boundary(raw: bytes, at: int) -> int:
    """The first place from `at` on that does not split a UTF-8 character."""
    while at < len(raw) and raw[at] & 0xC0 == 0x80:
        at += 1
    return at
