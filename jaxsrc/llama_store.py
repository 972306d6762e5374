"""A LLaMA in our own folder: weights under our names in safetensors, what came with them, and a manifest with its hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from jaxsrc.errors import UserError
from jaxsrc.models.llama import Llama, assemble, names
from jaxsrc.models.llama_config import LlamaConfig, read_config
from jaxsrc.modules.quantized import GROUP, Int4, Int8, Storage

FORMAT = 1
MANIFEST, SOURCE, UNFINISHED = "sheaf_llama.json", "source", "unfinished"
SHARD = 2**30  # bytes gathered before a file is written


@dataclass(frozen=True)
class StoreManifest:
    """storage: of matrices in the layers; fingerprint: hash of all weights and the configuration; files: of weights;
    tokenizer: hash of tokenizer.json, '' without one; origin: tensor of the source -> its file there."""

    storage: str
    fingerprint: str
    files: list[str]
    tokenizer: str
    origin: dict[str, str] = field(default_factory=dict)
    dtype: str = "BF16"
    format: int = FORMAT


def leaves(name: str, value: Any) -> dict[str, np.ndarray]:
    """A tensor as plain arrays: itself, or values and scale."""
    if isinstance(value, Int8 | Int4):
        return {f"{name}.values": np.asarray(value.values), f"{name}.scale": np.asarray(value.scale)}
    return {name: np.asarray(value)}


def write(
    folder: Path, raw: dict[str, Any], tensors: Iterable[tuple[str, Any]], storage: Storage, *, beside: Sequence[Path],
    origin: dict[str, str], dtype: str,
) -> StoreManifest:
    """Write a folder from tensors that come one by one; a model that lies there is replaced once the new one is whole.

    beside: files copied into source/ as they are, config.json among them. Errors: UserError where the folder cannot be
    written; whatever `tensors` raises, after which the folder holds what it held before.
    """
    hashed = hashlib.sha256(json.dumps(raw, sort_keys=True).encode())
    files: list[str] = []
    held: dict[str, np.ndarray] = {}
    made = folder / UNFINISHED

    def flush() -> None:
        if held:
            files.append(f"weights-{len(files):05d}.safetensors")
            save_file(dict(held), made / files[-1])
            held.clear()

    try:
        shutil.rmtree(made, ignore_errors=True)
        (made / SOURCE).mkdir(parents=True)
        for name, value in tensors:
            for part, array in leaves(name, value).items():
                hashed.update(f"{part}{array.dtype}{array.shape}".encode())
                hashed.update(np.ascontiguousarray(array).view(np.uint8).data)
                held[part] = array
            if sum(x.nbytes for x in held.values()) > SHARD:
                flush()
        flush()
        for path in beside:
            (made / SOURCE / path.name).write_bytes(path.read_bytes())
        found = StoreManifest(storage, hashed.hexdigest(), files, tokenizer_hash(made), origin, dtype)
        (made / MANIFEST).write_text(json.dumps(asdict(found), indent=1))
        _replace(folder, made, files)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder}: expected to write a converted model, got {error}; free some space") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return found


def _replace(folder: Path, made: Path, files: Sequence[str]) -> None:
    """Move a finished model into its folder; the old manifest goes first and the new one comes last, so half a model is none."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for old in folder.glob("weights-*.safetensors"):
        old.unlink()
    shutil.rmtree(folder / SOURCE, ignore_errors=True)
    for name in (SOURCE, *files, MANIFEST):
        os.replace(made / name, folder / name)


def tokenizer_hash(folder: Path) -> str:
    path = folder / SOURCE / "tokenizer.json"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


@dataclass(frozen=True)
class Stored:
    """A folder whose names and shapes were checked; weights are read by `tensors` or `model`."""

    folder: Path
    raw: dict[str, Any]
    config: LlamaConfig
    manifest: StoreManifest

    def arrays(self) -> Iterable[tuple[str, np.ndarray]]:
        """Every array under its name, one at a time."""
        for file in self.manifest.files:
            with safe_open(self.folder / file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 (not a dict)
                    yield name, opened.get_tensor(name)

    def model(self, dtype: Any = jnp.float32, layers: int | None = None) -> Llama:
        """The model on the default device; layers: only so many blocks, and no head, which is all that features need."""
        flat: dict[str, Any] = {}
        for name, array in self.arrays():
            part = name.split(".")
            beyond = layers is not None and (name == "head" or (part[0] == "layers" and int(part[1]) >= layers))
            if not beyond:
                flat[name] = jax.device_put(array)
        packed = {name.removesuffix(".scale") for name in flat if name.endswith(".scale")}
        kind = Int8 if self.manifest.storage == "int8" else Int4
        whole = {n: v for n, v in flat.items() if not n.endswith((".values", ".scale"))}
        whole |= {n: kind(flat[f"{n}.values"], flat[f"{n}.scale"]) for n in packed}
        return Llama(self.config, assemble(whole), dtype)


def _expected(config: LlamaConfig, storage: str) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in names(config).items():
        if name.startswith("layers.") and len(shape) == 2 and storage in ("int8", "int4"):
            o, i = shape
            found[f"{name}.values"] = shape if storage == "int8" else (o, i // 2)
            found[f"{name}.scale"] = (o,) if storage == "int8" else (o, i // GROUP)
        else:
            found[name] = shape
    return found


def open_store(folder: Path) -> Stored:
    """Check a converted folder from its headers; UserError naming file, key, expected and got."""
    path = folder / MANIFEST
    if not path.exists():
        raise UserError(
            f"{folder}: expected a converted LLaMA ({MANIFEST}), got none; "
            f"make it: python -m torch_bridge.llama convert HF_DIR {folder}"
        )
    try:
        told = json.loads(path.read_text())
        manifest = StoreManifest(**told)
        raw = json.loads((folder / SOURCE / "config.json").read_text())
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: expected a manifest of format {FORMAT}, got {error}; convert again") from None
    config = read_config(raw, str(folder / SOURCE / "config.json"))
    if manifest.tokenizer != tokenizer_hash(folder):
        raise UserError(f"{folder / SOURCE / 'tokenizer.json'}: expected the file that was converted, got another; convert again")
    wanted, problems = _expected(config, manifest.storage), []
    for file in manifest.files:
        try:
            with safe_open(folder / file, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118
                    shape = tuple(opened.get_slice(name).get_shape())
                    want = wanted.pop(name, None)
                    if want != shape:
                        problems.append(f"{folder / file}: {name}: expected {want or 'no such array'}, got {shape}")
        except (SafetensorError, OSError) as error:
            problems.append(f"{folder / file}: expected a whole safetensors file, got {error}; convert again")
    problems += [f"{folder}: {name}: expected in the weights, got none; convert again" for name in wanted]
    if problems:
        raise UserError("\n".join(problems[:12]))
    return Stored(folder, raw, config, manifest)
