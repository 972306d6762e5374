"""Labelled pictures: scikit-learn's digits, which need no file, and CIFAR-10 from its folder or archive."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from jaxtyping import Int, UInt8
from pydantic import Field

from jaxsrc.errors import UserError

FOLDER, ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
ARCHIVE_BYTES, ARCHIVE_MD5 = 170_498_071, "c58f30108f718f92721af3b95e74349a"
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
MD5 = {  # of the files as www.cs.toronto.edu/~kriz publishes them
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
ROWS = 10_000  # pictures of each CIFAR file
CLASSES = 10
ADVICE = "get it whole: scripts/prepare_cifar10 FOLDER"


@dataclass(frozen=True, kw_only=True)
class ImageDataConfig:
    """source: digits, or cifar10 with `folder`: where cifar-10-batches-py or its archive lies; examples: training pictures
    to keep, 0 for all; label_noise: share of training labels replaced by a wrong one, drawn by `noise_seed`."""

    source: Literal["digits", "cifar10"] = "digits"
    folder: str = "data"
    examples: Annotated[int, Field(ge=0)] = 0
    label_noise: Annotated[float, Field(ge=0, lt=1)] = 0.0
    noise_seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Split:
    """images: [n, side, side, channels]; labels below `CLASSES`."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, "n"]


@dataclass(frozen=True)
class Images:
    """train and test never share a picture; note: whether the files were the published ones."""

    name: str
    train: Split
    test: Split
    clean: Int[np.ndarray, "n"]  # the training labels before noise
    note: str = ""


def shape(config: ImageDataConfig) -> tuple[int, int]:
    """(side, channels) of the pictures, without reading them."""
    return (8, 1) if config.source == "digits" else (32, 3)


def size(config: ImageDataConfig) -> int:
    """Training pictures, without reading them."""
    whole = 1437 if config.source == "digits" else 5 * ROWS
    if config.examples > whole:
        raise UserError(f"data.examples: expected at most the {whole} training pictures, got {config.examples}; lower it")
    return config.examples or whole


def digits() -> tuple[Split, Split]:
    """The 1797 digits of scikit-learn, 8x8 with 17 grey levels; a fifth, drawn once and for all, is the test."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = (np.asarray(found.images) * 255 / 16).round().astype(np.uint8)[..., None]  # pyright: ignore[reportAttributeAccessIssue]
    labels = np.asarray(found.target, np.int32)  # pyright: ignore[reportAttributeAccessIssue]
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[360:], order[:360]
    return Split(images[train], labels[train]), Split(images[test], labels[test])


class _Plain(pickle.Unpickler):
    """Reads what CIFAR files hold and nothing that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype", "_frombuffer"):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _parse(raw: bytes, name: str) -> Split:
    """A CIFAR file's content."""
    try:
        found = _Plain(io.BytesIO(raw), encoding="bytes").load()
        data, labels = np.asarray(found[b"data"]), np.asarray(found[b"labels"])
    except Exception as error:  # whatever a damaged pickle raises
        raise UserError(f"{name}: expected a CIFAR-10 file, got one that cannot be read ({error}); {ADVICE}") from None
    if data.shape != (ROWS, 3072) or data.dtype != np.uint8 or labels.shape != (ROWS,):
        raise UserError(
            f"{name}: expected uint8[{ROWS}, 3072] and {ROWS} labels, got {data.dtype}{list(data.shape)} and "
            f"{labels.size}; {ADVICE}"
        )
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= CLASSES:
        raise UserError(f"{name}: expected labels from 0 to {CLASSES - 1}, got {labels.min()} to {labels.max()}; {ADVICE}")
    images = data.reshape(ROWS, 3, 32, 32).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images), labels.astype(np.int32))


def _files(root: Path) -> Callable[[str], bytes]:
    """A reader of the six files by name, from a folder or an archive."""
    folder = next((p for p in (root, root / FOLDER) if (p / TRAIN[0]).is_file()), None)
    if folder is not None:
        missing = [n for n in MD5 if not (folder / n).is_file()]
        if missing:
            raise UserError(f"{folder}: expected the six CIFAR-10 files, got none of {', '.join(missing)}; {ADVICE}")
        return lambda name: (folder / name).read_bytes()
    archive = next((p for p in (root, root / ARCHIVE) if p.is_file()), None)
    if archive is None:
        raise UserError(f"data.folder: expected {FOLDER}/ or {ARCHIVE} in {root}, got neither; {ADVICE}")
    there = archive.stat().st_size
    if archive.name == ARCHIVE and there < ARCHIVE_BYTES:
        raise UserError(f"{archive}: expected {ARCHIVE_BYTES:,} bytes, got {there:,}, a part of it; {ADVICE}")
    try:
        with tarfile.open(archive) as opened:
            kept = {}
            for member in opened:
                name = Path(member.name).name
                if name in MD5 and member.isfile():
                    kept[name] = opened.extractfile(member).read()  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise UserError(f"{archive}: expected a readable tar archive, got {error}; {ADVICE}") from None
    missing = [n for n in MD5 if n not in kept]
    if missing:
        raise UserError(f"{archive}: expected the six CIFAR-10 files, got none of {', '.join(missing)}; {ADVICE}")
    return lambda name: kept[name]


def cifar10(root: Path) -> tuple[Split, Split, str]:
    """50,000 training and 10,000 test pictures, and whether the files are the published ones.

    Errors: UserError for a folder without them, a truncated or damaged file, labels out of range.
    """
    read = _files(root)
    raw = {name: read(name) for name in MD5}
    other = [name for name, content in raw.items() if hashlib.md5(content).hexdigest() != MD5[name]]
    parts = [_parse(raw[name], f"{root}: {name}") for name in TRAIN]
    train = Split(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    note = f"{len(other)} of 6 files are not byte for byte the published ones" if other else "the published files"
    return train, _parse(raw["test_batch"], f"{root}: test_batch"), note


def noisy(labels: Int[np.ndarray, "n"], share: float, seed: int) -> Int[np.ndarray, "n"]:
    """Exactly round(share * n) labels, drawn at random, replaced by another class, each of the nine equally often."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(labels))[: round(share * len(labels))]
    out = labels.copy()
    out[chosen] = (out[chosen] + rng.integers(1, CLASSES, len(chosen))) % CLASSES
    return out


def load(config: ImageDataConfig) -> Images:
    """The pictures that a configuration names; a smaller part of the training set is the first of a fixed order."""
    if config.source == "digits":
        (train, test), note = digits(), "scikit-learn's digits, 1437 to train on and 360 to test"
    else:
        train, test, note = cifar10(Path(config.folder))
    count = size(config)
    if count < len(train.labels):
        order = np.random.default_rng(1).permutation(len(train.labels))[:count]
        train = Split(train.images[order], train.labels[order])
    labels = noisy(train.labels, config.label_noise, config.noise_seed) if config.label_noise else train.labels
    return Images(config.source, Split(train.images, labels), test, train.labels, note)
