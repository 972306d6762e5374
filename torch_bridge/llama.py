"""`python -m torch_bridge.llama tiny|check|convert|export|generate`: Hugging Face LLaMA folders to our parameters and back."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.llama_store import SOURCE, StoreManifest, open_store, write
from jaxsrc.models.llama import Llama, assemble
from jaxsrc.modules.quantized import Storage, store
from torch_bridge.llama_folder import INDEX, KINDS, HuggingFace, finite, open_folder
from torch_bridge.maps.llama import table

NATIVE: dict[str, Storage] = {"F32": "float32", "BF16": "bfloat16", "F16": "float32"}
BAR = 1e-5  # largest difference of float32 logits from transformers'


def load(folder: Path, dtype: Any = jnp.float32, storage: Storage | None = None) -> Llama:
    """A Hugging Face folder as our model, checked, streamed tensor by tensor."""
    opened = open_folder(folder)
    return Llama(opened.config, assemble(opened.load(storage)), dtype)


def convert(folder: Path, out: Path, storage: Storage | None = None) -> StoreManifest:
    """Write our folder; storage None keeps the file's type, bit for bit. Errors: UserError, nothing is written but whole."""
    opened = open_folder(folder)
    kept = storage or NATIVE[opened.dtype]
    beside = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix in (".json", ".txt", ".model", ".jinja")]
    origin = {name: header.file for name, header in opened.headers.items()}

    def tensors() -> Iterator[tuple[str, Any]]:
        for name, array in opened.tensors():
            if not finite(array, opened.dtype):
                raise UserError(
                    f"{folder}: {table(opened.config)[name]}: expected finite weights, got NaN or infinity; get that file again"
                )
            if storage in ("float32", "bfloat16"):
                yield name, array.astype(KINDS["F32" if storage == "float32" else "BF16"].numpy)
            elif storage is not None and name.startswith("layers.") and array.ndim == 2:
                yield name, jax.jit(store, static_argnums=1)(jax.device_put(array), storage)
            else:
                yield name, array

    return write(out, opened.raw, tensors(), kept, beside=beside, origin=origin, dtype=opened.dtype)


def export(stored: Path, out: Path) -> int:
    """Write the Hugging Face folder that was converted, bit for bit; returns its tensors. UserError where bits were lost."""
    opened = open_store(stored)
    manifest = opened.manifest
    if manifest.storage != NATIVE.get(manifest.dtype) or manifest.dtype not in KINDS:
        raise UserError(
            f"{stored}: expected weights as they came ({manifest.dtype}), got {manifest.storage}, which has lost bits; convert "
            "the source again without --storage"
        )
    names = table(opened.config)
    shards: dict[str, dict[str, np.ndarray]] = {}
    left: dict[str, int] = {}
    for file in manifest.origin.values():
        left[file] = left.get(file, 0) + 1
    out.mkdir(parents=True, exist_ok=True)
    for path in (stored / SOURCE).iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    count = 0
    for name, array in opened.arrays():
        hf = names[name]
        file = manifest.origin[hf]
        shards.setdefault(file, {})[hf] = array
        count += 1
        if len(shards[file]) == left[file]:  # a shard is written, and let go, when its last tensor is there
            save_file(shards.pop(file), out / file, metadata={"format": "pt"})
    if shards:
        raise UserError(f"{stored}: expected every tensor of {', '.join(shards)}, got a part; convert again")
    return count


def difference(folder: Path, length: int = 600, seed: int = 0) -> tuple[float, float]:
    """(largest difference of float32 logits from transformers', their standard deviation) on random tokens."""
    import torch
    from transformers import LlamaForCausalLM

    opened = open_folder(folder)
    tokens = np.random.default_rng(seed).integers(0, opened.config.vocabulary, (1, length))
    theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(tokens)).logits.numpy()
    del theirs
    with jax.default_matmul_precision("highest"):
        ours = np.asarray(load(folder, storage="float32").logits(jnp.asarray(tokens)))
    return float(np.abs(ours - wanted).max()), float(wanted.std())


def describe(opened: HuggingFace) -> str:
    c = opened.config
    size = sum(int(np.prod(h.shape)) * KINDS[h.dtype].numpy.itemsize for h in opened.headers.values())
    return (
        f"{opened.folder}: {c.parameters:,} parameters, {size / 1e9:.2f} GB of {opened.dtype}, {c.layers} layers, width {c.width}"
        f", {c.heads}/{c.kv_heads} heads of {c.head_dim}, rope {c.scaling.kind}, {'tied' if c.tied else 'untied'}"
    )


def _tiny(args: argparse.Namespace) -> int:
    from torch_bridge import tiny_llama

    tiny_llama.make(args.folder, seed=args.seed)
    print(describe(open_folder(args.folder)))
    return DONE


def _check(args: argparse.Namespace) -> int:
    print(describe(open_folder(args.folder)))
    if args.headers:
        return DONE
    found, scale = difference(args.folder, args.tokens)
    bar = BAR * max(1.0, scale)
    print(f"largest difference of float32 logits from transformers', {args.tokens} tokens: {found:.2e} (deviation {scale:.2f})")
    if found > bar:
        raise UserError(f"{args.folder}: expected a difference of at most {bar:.0e}, got {found:.2e}; do not use it")
    return DONE


def _convert(args: argparse.Namespace) -> int:
    start = time.perf_counter()
    found = convert(args.folder, args.out, cast("Storage | None", args.storage))
    print(f"{args.out}: {found.storage}, fingerprint {found.fingerprint[:12]}, {time.perf_counter() - start:.1f} s")
    return DONE


def _export(args: argparse.Namespace) -> int:
    print(f"{args.out}: {export(args.folder, args.out)} tensors, bit for bit as they came ({INDEX} as well)")
    return DONE


def _generate(args: argparse.Namespace) -> int:
    from tokenizers import Tokenizer

    opened = open_store(args.folder)
    words = Tokenizer.from_file(str(args.folder / SOURCE / "tokenizer.json"))
    ids = words.encode(args.prompt).ids
    raw = json.loads((args.folder / SOURCE / "config.json").read_text())
    end = raw.get("eos_token_id")
    found = opened.model().generate(jnp.asarray(ids, jnp.int32), args.steps, end if isinstance(end, int) else None)
    print(words.decode([*ids, *found]))
    return DONE


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m torch_bridge.llama", description=__doc__)
    actions = parser.add_subparsers(required=True, metavar="COMMAND")

    def action(name: str, what: Any, text: str, folder: str) -> argparse.ArgumentParser:
        made = actions.add_parser(name, help=text, description=text)
        made.add_argument("folder", type=Path, metavar=folder)
        made.set_defaults(action=what)
        return made

    action("tiny", _tiny, "write a small random LLaMA and tokenizer", "DIR").add_argument("--seed", type=int, default=0)
    check = action("check", _check, "check a Hugging Face folder, then its logits against transformers", "HF_DIR")
    check.add_argument("--headers", action="store_true", help="headers only: no weight is read")
    check.add_argument("--tokens", type=int, default=600)
    made = action("convert", _convert, "Hugging Face folder to ours", "HF_DIR")
    made.add_argument("out", type=Path, metavar="OUT")
    made.add_argument("--storage", choices=get_args(Storage), help="(default: as in the files)")
    action("export", _export, "our folder back to a Hugging Face folder", "DIR").add_argument("out", type=Path, metavar="HF_DIR")
    talk = action("generate", _generate, "the likeliest continuation of a prompt", "DIR")
    talk.add_argument("--prompt", required=True)
    talk.add_argument("--steps", type=int, default=32)
    args = parser.parse_args(arguments)
    return args.action(args)


if __name__ == "__main__":
    command_line(main)
