"""A Hugging Face folder of safetensors, checked whole from its headers before a single weight is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from jaxsrc.errors import UserError
from jaxsrc.models.llama import names
from jaxsrc.models.llama_config import LlamaConfig, read_config
from jaxsrc.modules.quantized import Storage, store
from torch_bridge.maps.llama import IGNORED, TOP, table

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
PIECE = 2**18  # values
WORKERS = 2
MANY = 12  # problems that are printed


class Kind(NamedTuple):
    """Of a safetensors type: as numpy has it; integers of its size in torch; all bits but the sign; those of infinity."""

    numpy: np.dtype
    bits: torch.dtype
    mask: np.unsignedinteger
    infinity: int


KINDS = {
    "F32": Kind(np.dtype(np.float32), torch.int32, np.uint32(0x7FFFFFFF), 0x7F800000),
    "BF16": Kind(np.dtype(ml_dtypes.bfloat16), torch.int16, np.uint16(0x7FFF), 0x7F80),
    "F16": Kind(np.dtype(np.float16), torch.int16, np.uint16(0x7FFF), 0x7C00),
}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: expected this file of a Hugging Face folder, got none; name the folder that holds it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected JSON, got {error}; download it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected an object, got {type(found).__name__}; download it again")
    return found


def _raise(problems: list[str]) -> None:
    if problems:
        more = [f"and {len(problems) - MANY} more problems"] if len(problems) > MANY else []
        raise UserError("\n".join(problems[:MANY] + more))


@dataclass(frozen=True)
class Header:
    """Of one tensor: its file, shape and safetensors type."""

    file: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class HuggingFace:
    """raw: config.json; headers: of every tensor under its name there; all of it fits `config`."""

    folder: Path
    raw: dict[str, Any]
    config: LlamaConfig
    headers: dict[str, Header]

    @cached_property
    def dtype(self) -> str:
        """The one type of all weights."""
        return next(iter(self.headers.values())).dtype

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """(our name, array) file by file; arrays are the file's own pages, so nothing is held or copied."""
        back = {hf: ours for ours, hf in table(self.config).items()}
        for file in sorted({h.file for h in self.headers.values()}):
            with safe_open(self.folder / file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a dict)
                    if name in back:
                        kind = KINDS[self.dtype]
                        yield back[name], opened.get_tensor(name).view(kind.bits).numpy().view(kind.numpy)

    def load(self, storage: Storage | None = None, *, finite: bool = True) -> dict[str, Any]:
        """Our tensors by name on the default device; storage: of matrices in the layers, the file's if None.

        With int8 and int4 the rest stays as it is. finite: refuse NaN and infinity. Host memory beyond the device's: a tensor
        in each of WORKERS threads.
        """
        alike = jax.devices()[0].platform == "cpu"

        def one(given: tuple[str, np.ndarray]) -> tuple[str, Any, bool]:
            name, array = given
            array, good = _read(array, KINDS[self.dtype], copy=alike, check=finite)
            value = jax.device_put(array)
            if storage in ("float32", "bfloat16"):
                value = value.astype(storage)
            elif storage is not None and name.startswith("layers.") and value.ndim == 2:
                value = jax.jit(store, static_argnums=1)(value, storage)
            return name, value, good

        with ThreadPoolExecutor(WORKERS) as pool:
            read = list(pool.map(one, self.tensors()))
        names = table(self.config)
        bad = [names[n] for n, _, good in read if not good]
        _raise([f"{self.folder}: {n}: expected finite weights, got NaN or infinity; get that file again" for n in bad])
        return {name: value for name, value, _ in read}


def _read(array: np.ndarray, kind: Kind, *, copy: bool, check: bool) -> tuple[np.ndarray, bool]:
    """(the array, whether all of it is finite) in pieces that stay in the cache between the two looks at them.

    copy: into memory of its own, torch's: aligned so that JAX's CPU backend takes it as it is, and of small pages (numpy
    asks for huge ones, and putting those together can take longer than the copy).
    """
    flat = array.reshape(-1)
    out = flat
    if copy:
        out = torch.empty(array.nbytes, dtype=torch.uint8).numpy().view(array.dtype)
    good = True
    for i in range(0, flat.size, PIECE):
        if copy:
            out[i : i + PIECE] = flat[i : i + PIECE]
        if check and good:
            good = bool((out[i : i + PIECE].view(kind.mask.dtype) & kind.mask).max() < kind.infinity)
    return out.reshape(array.shape), good


def finite(array: np.ndarray, dtype: str) -> bool:
    """Whether an array of a safetensors type holds no NaN and no infinity."""
    return _read(array, KINDS[dtype], copy=False, check=True)[1]


def _files(folder: Path, problems: list[str]) -> tuple[list[str], dict[str, str] | None]:
    """Shards to read, and the index's tensor -> shard where there is an index."""
    there = sorted(p.name for p in folder.glob("*.safetensors"))
    if not (folder / INDEX).exists():
        if not there:
            raise UserError(f"{folder}: expected {SINGLE} or {INDEX}, got neither; convert the weights to safetensors first")
        if there != [SINGLE]:
            raise UserError(f"{folder}: expected {INDEX} beside {len(there)} shards, got none; download it as well")
        return there, None
    index = _json(folder / INDEX).get("weight_map")
    if not isinstance(index, dict):
        raise UserError(f"{folder / INDEX}: expected a weight_map, got none; download it again")
    named = sorted(set(index.values()))
    problems += [f"{folder / f}: expected this shard of the index, got none; download it" for f in named if f not in there]
    problems += [f"{folder / f}: a shard that the index does not name; remove it" for f in there if f not in named]
    return [f for f in named if f in there], index


def _headers(folder: Path, files: list[str], index: dict[str, str] | None, problems: list[str]) -> dict[str, Header]:
    found: dict[str, Header] = {}
    for file in files:
        try:
            with safe_open(folder / file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(name)
                    if name in found:
                        problems.append(f"{folder / file}: {name}: expected once, got it in {found[name].file} as well")
                    found[name] = Header(file, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            problems.append(f"{folder / file}: expected a whole safetensors file, got {error}; download it again")
    if index is not None and not problems:
        for name in sorted(set(index) | set(found)):
            if index.get(name) != (found[name].file if name in found else None):
                there = found[name].file if name in found else "no shard"
                problems.append(f"{folder / INDEX}: {name}: expected in {index.get(name, 'no shard')}, got it in {there}")
    return found


def vocabulary_of(folder: Path) -> int | None:
    """Entries of the folder's tokenizer.json, added tokens included; None without one."""
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    told = _json(path)
    ids = [*((told.get("model") or {}).get("vocab") or {}).values(), *(t.get("id", 0) for t in told.get("added_tokens") or [])]
    return 1 + max((i for i in ids if isinstance(i, int)), default=-1)


def open_folder(folder: Path) -> HuggingFace:
    """Read and check configuration, index and headers; UserError with every problem, a line each. No weight is read."""
    raw = _json(folder / "config.json")
    config = read_config(raw, str(folder / "config.json"))
    entries = vocabulary_of(folder)
    if entries is not None and entries > config.vocabulary:
        at = folder / "config.json"
        raise UserError(f"{at}: vocab_size: expected at least the tokenizer's {entries}, got {config.vocabulary}; mend it")
    problems: list[str] = []
    files, index = _files(folder, problems)
    headers = _headers(folder, files, index, problems)
    _raise(problems)
    ours, shapes = table(config), names(config)
    for name, hf in ours.items():
        if hf not in headers:
            problems.append(f"{folder}: {hf}: expected in the shards, got none; download the shard that holds it")
        elif headers[hf].shape != shapes[name]:
            problems.append(f"{folder / headers[hf].file}: {hf}: expected shape {shapes[name]}, got {headers[hf].shape}")
    known = set(ours.values()) | ({TOP["head"]} if config.tied else set())
    problems += [
        f"{folder / h.file}: {n}: a tensor that this model has not; check config.json"
        for n, h in headers.items()
        if n not in known and not IGNORED.fullmatch(n)
    ]
    kept = {n: h for n, h in headers.items() if n in known}
    usual = max({h.dtype for h in kept.values()}, key=lambda d: sum(h.dtype == d for h in kept.values()), default="")
    for name, h in kept.items():
        if h.dtype not in KINDS or h.dtype != usual:
            wanted = usual if usual in KINDS else ", ".join(KINDS)
            problems.append(f"{folder / h.file}: {name}: expected type {wanted} as the others, got {h.dtype}")
    _raise(problems)
    return HuggingFace(folder, raw, config, kept)
