"""`python -m torch_bridge.bench_hybrid step|load|prefill`: the hybrid's parts against PyTorch and transformers on this machine.

step and prefill run both sides in one process, in turn, on one core, and print medians in CPU seconds of the process; load runs
each side in a process of its own and prints its seconds and the peak of its own (anonymous) memory.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from jaxsrc import heap
from torch_bridge.bench_depth import one_core, rounds, show


def step(count: int) -> None:
    """A whole TRM training step: recursion, stablemax loss, backward, AdamATan2, puzzle table, halting."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch

    from jaxsrc.hybrid_data import HybridDataConfig
    from jaxsrc.hybrid_experiment import HybridConfig, HybridExperiment
    from jaxsrc.models.grid_decoder import GridDecoderConfig
    from jaxsrc.optim import OptimConfig, make_optimizer
    from jaxsrc.state import init_state
    from jaxsrc.step import CompiledOnce, train_step
    from torch_bridge.twins.grid_decoder import GridDecoderTwin
    from torch_bridge.twins.trm_training import Training

    torch.set_num_threads(1)
    small = GridDecoderConfig(side=11, slots=1, width=128, heads=4, inner=384, h_cycles=2, l_cycles=2)
    trm = GridDecoderConfig(side=11)
    optim = OptimConfig(kind="adam_atan2", learning_rate=1e-3, warmup_steps=1, schedule="constant", b2=0.95, clip_norm=0.0)
    for name, shape, b in (("hybrid_arc10, 32 rows", small, 32), ("TRM's sizes, 2 rows", trm, 2)):
        rng = np.random.default_rng(0)
        s, arms = shape.cells, {}
        data = {"inputs": rng.integers(0, 12, (b, s)).astype(np.int8), "labels": rng.integers(1, 12, (b, s)).astype(np.int8)}
        data |= {"puzzle": rng.integers(0, 15, b).astype(np.int32)}
        for kind, remat, unroll in (("", False, False), (", recomputing", True, False), (", unrolled", False, True)):
            model = replace(shape, remat=remat, unroll=unroll)
            made = HybridExperiment(HybridConfig(model=model, data=HybridDataConfig(views=1), batch=b))
            optimizer = make_optimizer(optim, 1000)
            holder = [jax.jit(lambda e=made, o=optimizer: init_state(e, o, 0, ema=False, scaled=False))()]
            compiled = CompiledOnce(
                train_step(made, optimizer, jnp.dtype("float32"), 0.0), "step", ("state", "batch"), donate=(0,)
            )
            more = {"sample": np.zeros(b, np.int32), "shift": np.zeros((b, 2), np.int32)}
            given = jax.tree.map(jnp.asarray, data | more)

            def ours(holder: list = holder, compiled: CompiledOnce = compiled, given: object = given) -> None:
                holder[0], metrics = compiled(holder[0], given)
                jax.block_until_ready(metrics)

            arms[f"sheaf{kind}"] = ours
        twin = GridDecoderTwin(shape, 15)
        training = Training(twin, b, 1e-3, (0.9, 0.95), 0.1, 1e-2, 0.1)
        tensors = {k: torch.from_numpy(v) for k, v in data.items()}
        show(name, rounds({"eager PyTorch": lambda t=training, x=tensors: t.step(x), **arms}, count), "eager PyTorch")


def _peak(work: Callable[[], object]) -> tuple[float, float]:
    """(seconds, peak GB of anonymous memory above what there was) of a call in this process."""

    def anonymous() -> float:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024 / 1e9
        return 0.0

    before, peak, over = anonymous(), [0.0], threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            peak[0] = max(peak[0], anonymous())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    del kept
    return seconds, peak[0] - before


def load_one(side: str, folder: Path) -> None:
    """One side of `load`, in a process of its own."""
    if side == "sheaf":
        import jax
        import jax.numpy as jnp

        from torch_bridge.llama_folder import open_folder

        jnp.zeros(1).block_until_ready()

        def work() -> object:
            return jax.block_until_ready(open_folder(folder).load())
    else:
        import jax
        import jax.numpy as jnp
        import ml_dtypes
        import torch
        from transformers import LlamaForCausalLM

        jnp.zeros(1).block_until_ready()

        def work() -> object:
            theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
            state = theirs.state_dict()
            turn = lambda x: jax.device_put(x.view(torch.int16).numpy().view(ml_dtypes.bfloat16))
            return jax.block_until_ready({k: turn(v) for k, v in state.items()})

    seconds, peak = _peak(work)
    print(f"{side:<34} {seconds:>7.2f} s  peak {peak:>5.2f} GB", flush=True)


def load(count: int, layers: int) -> None:
    """A 1B-shaped bfloat16 folder in five shards or so, made here and deleted afterwards."""
    import torch

    from torch_bridge import tiny_llama
    from torch_bridge.llama import describe
    from torch_bridge.llama_folder import open_folder

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "hf"
        torch.set_default_dtype(torch.bfloat16)
        tiny_llama.make(folder, "1b", shard="500MB", num_hidden_layers=layers)
        print(describe(open_folder(folder)), flush=True)
        for _ in range(count):
            for side in ("transformers and conversion", "sheaf"):
                command = [sys.executable, "-m", "torch_bridge.bench_hybrid", "load-one", "--side", side, "--folder", str(folder)]
                subprocess.run(command, check=True)


def prefill(count: int, layers: int, tokens: int) -> None:
    """512 tokens through a 1B-shaped random model in float32, without the head; both sides use the same memory for weights."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import torch
    from transformers import LlamaModel

    from jaxsrc.models.llama import Llama, assemble
    from jaxsrc.models.llama_config import read_config
    from torch_bridge import tiny_llama
    from torch_bridge.maps.llama import table

    torch.set_num_threads(1)
    told = tiny_llama.config("1b", num_hidden_layers=layers)
    theirs = LlamaModel(told).eval()
    config = read_config(told.to_dict() | {"architectures": ["LlamaForCausalLM"]}, "1b")
    state = {f"model.{k}": v for k, v in theirs.state_dict().items()}
    flat = {ours: jax.dlpack.from_dlpack(state[hf].contiguous()) for ours, hf in table(config).items()}
    model = Llama(config, assemble(flat))
    ids = np.random.default_rng(0).integers(0, config.vocabulary, (1, tokens))
    given, asked = torch.from_numpy(ids), jnp.asarray(ids)

    @torch.no_grad()
    def run() -> torch.Tensor:
        return theirs(given).last_hidden_state

    ours = lambda: jax.block_until_ready(model.hidden(asked))
    error = np.abs(np.asarray(ours()) - run().numpy()).max()
    print(f"{config.parameters:,} parameters, {tokens} tokens; largest difference of the last hidden state {error:.1e}")
    show(f"prefill, {layers} layers", rounds({"transformers (sdpa)": run, "sheaf": ours}, count), "transformers (sdpa)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m torch_bridge.bench_hybrid", description=__doc__)
    parser.add_argument("what", choices=["step", "load", "load-one", "prefill"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=16, help="of the 1B shape (default 16: all)")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--side", default="sheaf")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.what == "load-one":
        load_one(args.side, args.folder)
    elif args.what == "load":
        load(args.rounds, args.layers)
    else:
        print(f"one process on {one_core()}, float32, medians of {args.rounds} rounds")
        heap.keep_freed()  # for both sides, as training does
        step(args.rounds) if args.what == "step" else prefill(args.rounds, args.layers, args.tokens)


if __name__ == "__main__":
    main()
