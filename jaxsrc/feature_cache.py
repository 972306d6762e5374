"""Hidden states of a frozen language model, computed once a prompt and kept on disk under a hash of all they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import ml_dtypes
import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxsrc.data import arc_text
from jaxsrc.data.arc_text import Style
from jaxsrc.errors import UserError
from jaxsrc.hybrid_data import Problems

FORMAT = 1
MANIFEST = "manifest.json"
Change = Literal["none", "zeroed", "shuffled"]


@dataclass(frozen=True, kw_only=True)
class FeatureConfig:
    """cache: folder that `python -m jaxsrc.extract` fills; llama: converted folder that it reads (training needs only the
    cache); layer: hidden states after that many blocks, -1 after the last and its norm; style: of grids in the text; limit:
    tokens of a prompt; drop: leave out whole demonstrations, the last first, where it is longer; change: ablation, features
    set to zero or taken from another task."""

    cache: str = ""
    llama: str = ""
    layer: Annotated[int, Field(ge=-1)] = -1
    style: Style = "spaced"
    limit: Annotated[int, Field(ge=1)] = 8192
    drop: bool = False
    change: Change = "none"


@dataclass(frozen=True)
class Identity:
    """What all entries of a cache have in common. llama, tokenizer: hashes of contents; width: of a hidden state."""

    llama: str
    tokenizer: str
    layer: int
    width: int
    style: str
    limit: int
    drop: bool
    serialiser: str = arc_text.VERSION
    dtype: str = "bfloat16"
    format: int = FORMAT

    def key(self, text: str) -> str:
        body = json.dumps({**asdict(self), "text": text}, sort_keys=True)
        return hashlib.sha256(body.encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """hidden: bfloat16[t, f]; cells: int32[c], the token of each cell of the test input."""

    hidden: np.ndarray
    cells: np.ndarray


def _names(identity: dict[str, Any], wanted: dict[str, Any]) -> str:
    return "; ".join(f"{k}: expected {v}, got {identity.get(k)}" for k, v in wanted.items() if identity.get(k) != v)


class Cache:
    """A folder with one manifest and one file a prompt; every file appears whole or not at all."""

    def __init__(self, folder: Path, identity: Identity):
        self.folder, self.identity = folder, identity

    @classmethod
    def create(cls, folder: Path, identity: Identity) -> Cache:
        """Open for writing; UserError where the folder holds features of something else."""
        there = _manifest(folder)
        if there is not None and there != asdict(identity):
            raise UserError(
                f"{folder / MANIFEST}: stale or foreign cache: {_names(there, asdict(identity))}; name another "
                "experiment.features.cache, or delete this one"
            )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / MANIFEST, lambda part: part.write_text(json.dumps(asdict(identity), indent=1)))
        except OSError as error:
            raise UserError(f"{folder}: expected to write a cache, got {error.strerror}; name another place") from error
        return cls(folder, identity)

    @classmethod
    def open(cls, config: FeatureConfig, width: int) -> Cache:
        """Open for reading; UserError unless it is a cache made as this configuration says, by today's serialiser."""
        folder = Path(config.cache)
        if not config.cache:
            raise UserError("experiment.features.cache: expected a folder of features for this conditioning, got none; name one")
        there = _manifest(folder)
        if there is None:
            raise UserError(f"{folder}: expected a feature cache, got none; make it: python -m jaxsrc.extract CONFIG")
        wanted: dict[str, Any] = {
            **{k: v for k, v in asdict(config).items() if k in ("layer", "style", "limit", "drop")},
            "width": width,
            "serialiser": arc_text.VERSION,
            "format": FORMAT,
        }
        found = _names(there, wanted)
        if found:
            raise UserError(
                f"{folder / MANIFEST}: stale or foreign cache: {found}; extract again into another folder, or change the "
                "configuration"
            )
        return cls(folder, Identity(**there))

    def path(self, text: str) -> Path:
        return self.folder / f"{self.identity.key(text)}.safetensors"

    def read(self, text: str) -> Entry:
        """One entry, its file memory-mapped; UserError where it is absent or damaged."""
        path = self.path(text)
        try:
            with safe_open(path, framework="numpy") as file:
                entry = Entry(file.get_tensor("hidden"), file.get_tensor("cells"))
        except FileNotFoundError:
            raise UserError(
                f"{self.folder}: expected features of every prompt, got none of {path.stem[:12]}; extract again: it goes on"
            ) from None
        except SafetensorError as error:
            raise UserError(f"{path}: expected an entry of the cache, got a damaged file ({error}); delete it") from None
        if entry.hidden.dtype != ml_dtypes.bfloat16 or entry.hidden.shape[1:] != (self.identity.width,):
            got = f"{entry.hidden.dtype}{list(entry.hidden.shape)}"
            raise UserError(f"{path}: expected bfloat16[tokens, {self.identity.width}], got {got}; delete it")
        return entry

    def has(self, text: str) -> bool:
        """Whether there is a readable entry; a damaged one counts as none."""
        try:
            with safe_open(self.path(text), framework="numpy") as file:
                return set(file.keys()) == {"hidden", "cells"}
        except (FileNotFoundError, SafetensorError):
            return False

    def write(self, text: str, entry: Entry) -> None:
        """Through a file beside it that takes its name at the end; UserError where the disk is full."""
        data = {"hidden": np.ascontiguousarray(entry.hidden), "cells": np.ascontiguousarray(entry.cells)}
        try:
            _replace(self.path(text), lambda part: save_file(data, part))
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self.folder}: expected to write {data['hidden'].nbytes:,} bytes, got {error}; free some space and start the "
                "same command again, it goes on"
            ) from error


def _manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected the manifest of a cache, got {error}; delete that folder") from None
    if not isinstance(found, dict) or set(found) != set(Identity.__dataclass_fields__):
        raise UserError(f"{path}: expected the manifest of a cache, got other keys; delete that folder and extract again")
    return found


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def fill(
    cache: Cache,
    texts: Iterable[str],
    compute: Callable[[str], Entry],
    lengths: Callable[[str], int],
    say: Callable[[str], None],
) -> int:
    """Compute what the cache lacks, saying how far it is; returns how many prompts were computed.

    lengths: tokens of a prompt, all checked before anything is computed. Errors: UserError for a prompt over the limit, and
    where the disk has no room for what is missing.
    """
    wanted = list(dict.fromkeys(texts))
    missing = [t for t in wanted if not cache.has(t)]
    size = 2 * cache.identity.width * sum(map(lengths, missing))
    free = shutil.disk_usage(cache.folder).free
    if size > free:
        raise UserError(
            f"{cache.folder}: expected {size / 1e9:.2f} GB of free disk for {len(missing)} prompts, got {free / 1e9:.2f}; free "
            "some space, or ask for fewer views"
        )
    say(f"{len(wanted)} prompts, {len(wanted) - len(missing)} in the cache, {size / 1e6:.0f} MB to write")
    start = last = time.monotonic()
    for done, text in enumerate(missing, 1):
        cache.write(text, compute(text))
        now = time.monotonic()
        if now - last > 5 or done == len(missing):
            left = (now - start) / done * (len(missing) - done)
            say(f"{done}/{len(missing)} prompts, about {left:.0f} s left")
            last = now
    return len(missing)


def prompts(problems: Problems, style: Style) -> list[str]:
    """The text of every sample's question, in the order of the samples."""
    return [arc_text.write(s.shown, style).text for s in problems.samples]


@dataclass(frozen=True)
class FeatureTable:
    """Features of every sample. hidden: uint16[n, t, f], the bits of bfloat16, so that no cast copies them; tokens: int32[n]
    that count; cells: int32[n, s], the row of `hidden` for each position of the canvas, or -1."""

    entries: Callable[[int], Entry]
    samples: int
    sizes: tuple[int, int, int]
    canvas: Callable[[int, np.ndarray], np.ndarray]
    conditioning: str
    zeroed: bool

    def shapes(self) -> dict[str, np.ndarray]:
        """Arrays of the right shape and type that occupy nothing."""
        t, f, s = self.sizes
        blank = lambda dtype, *shape: np.broadcast_to(np.zeros((), dtype), shape)
        n = self.samples
        return {"hidden": blank(np.uint16, n, t, f), "tokens": blank(np.int32, n), "cells": blank(np.int32, n, s)}

    @cached_property
    def _whole(self) -> dict[str, np.ndarray]:
        found = {name: np.zeros(x.shape, x.dtype) for name, x in self.shapes().items()}
        for i in range(self.samples):
            entry = self.entries(i)
            hidden, cells = entry.hidden, np.arange(len(entry.cells), dtype=np.int32)
            if self.conditioning == "pooled":
                hidden = hidden.astype(np.float32).mean(0, keepdims=True).astype(hidden.dtype)
            elif self.conditioning == "aligned":
                hidden = hidden[entry.cells]
            found["hidden"][i, : len(hidden)] = 0 if self.zeroed else hidden.view(np.uint16)
            found["tokens"][i] = len(hidden)
            found["cells"][i] = self.canvas(i, cells) if self.conditioning == "aligned" else -1
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        return self._whole

    def rows(self, samples: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Features of these samples alone."""
        return {name: x[np.asarray(samples)] for name, x in self._whole.items()}


def other_task(problems: Problems, i: int) -> int:
    """A sample of the next task in the same view, for features that belong to something else."""
    s, count = problems.samples[i], len(problems.tasks)
    t = (s.task + 1) % count
    there = [k for k, o in enumerate(problems.samples) if o.task == t and o.view == s.view]
    return there[s.pair % len(there)]


def read_features(config: FeatureConfig, problems: Problems, side: int, width: int, conditioning: str) -> FeatureTable:
    """The features of all samples; only sizes are read until they are asked for.

    Errors: UserError for a missing, stale, foreign or incomplete cache.
    """
    cache = Cache.open(config, width)
    written = [arc_text.write(s.shown, config.style) for s in problems.samples]
    absent = sum(not cache.has(t.text) for t in written)
    if absent:
        raise UserError(
            f"{cache.folder}: expected features of {len(written)} prompts, got {len(written) - absent}; extract again, it goes "
            "on: python -m jaxsrc.extract CONFIG"
        )
    source = list(range(len(written)))
    if config.change == "shuffled":
        if len(problems.tasks) < 2:
            raise UserError("experiment.features.change: expected two tasks or more to shuffle between, got one; add some")
        source = [other_task(problems, i) for i in source]

    def entry(i: int) -> Entry:
        return cache.read(written[source[i]].text)

    def canvas(i: int, cells: np.ndarray) -> np.ndarray:
        """Row of each canvas position, from rows of the grid's cells in reading order."""
        h, w = written[source[i]].shape
        whole = np.full((side, side), -1, np.int32)
        whole[:h, :w] = cells.reshape(h, w)
        return whole.ravel()

    lengths = {"pooled": lambda e: 1, "aligned": lambda e: len(e.cells)}.get(conditioning, lambda e: len(e.hidden))
    longest = max(lengths(entry(i)) for i in range(len(written)))
    sizes = (longest, width, side * side)
    return FeatureTable(entry, len(written), sizes, canvas, conditioning, config.change == "zeroed")
