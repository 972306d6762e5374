"""`scripts/bench_lm_vs_torch`: a training step of the gated language model here, in PyTorch eager and under torch.compile.

The same model, weights, batch, AdamW and clipping on the same device; the arms take turns, and the ratio is of medians.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from torch.nn import functional

from jaxsrc import heap
from jaxsrc import runtime as runtimes
from jaxsrc.bench_device import ready
from jaxsrc.config import load
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.experiment import RunConfig, build
from jaxsrc.prefetch import place
from jaxsrc.runtime import Runtime, RuntimeConfig
from jaxsrc.text_experiment import TextExperiment
from torch_bridge.runs.text import of_text
from torch_bridge.twins.parts import Attention, Tap


def fused_attention(self: Attention, x: torch.Tensor, mask: torch.Tensor, tap: Tap, name: str) -> torch.Tensor:
    """PyTorch's own fused attention: its best, in place of the plain one that converts."""
    b, n, d = x.shape
    q, k, v = (y.view(b, n, self.heads, d // self.heads).transpose(1, 2) for y in (self.q(x), self.k(x), self.v(x)))
    out = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    return self.o(out.transpose(1, 2).reshape(b, n, d))


def torch_step(model: torch.nn.Module, tokens: torch.Tensor, config: RunConfig) -> Callable[[], float]:
    """One step: forward, loss, backward, clipping, fused AdamW; the loss is read at the end."""
    o = config.optim
    settings = {"lr": o.learning_rate, "betas": (o.b1, o.b2), "weight_decay": o.weight_decay}
    optimizer = torch.optim.AdamW(model.parameters(), **settings, fused=True)  # type: ignore[arg-type]

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1))
        loss.backward()
        if o.clip_norm:
            torch.nn.utils.clip_grad_norm_(model.parameters(), o.clip_norm)
        optimizer.step()
        return loss.item()

    return step


def jax_step(config: RunConfig, experiment: TextExperiment, tokens: np.ndarray, runtime: Runtime) -> Callable[[], float]:
    """The engine's own step, compiled here."""
    made = ready(config, experiment, runtime)
    held: dict[str, Any] = {"state": made.state}
    batch = place({"tokens": tokens}, runtime)

    def run() -> float:
        held["state"], metrics = made.step(held["state"], batch, made.resident)
        jax.block_until_ready(held["state"].params)
        value, weight = jax.device_get(metrics).rows()[0]["loss"]
        return value / weight

    return run


def torch_device(platform: str) -> str:
    """PyTorch's name of the device that JAX computes on. Errors: UserError where this PyTorch has it not."""
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "metal": torch.backends.mps.is_available()}
    if not here[platform]:
        raise UserError(f"expected a PyTorch with {platform}, as JAX has it, got one without; add runtime.device=cpu")
    return "mps" if platform == "metal" else platform


def measure(arms: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step; the arms take turns in blocks of three, of which the first is not counted."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, step in arms.items():
            for index in range(3):
                start = time.perf_counter()
                step()
                if index:
                    found[name].append(time.perf_counter() - start)
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench_lm_vs_torch", description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/text_laptop.yaml", metavar="CONFIG")
    parser.add_argument("override", nargs="*", metavar="key=value")
    parser.add_argument("--rounds", type=int, default=10, help="blocks of two timed steps of each arm (default 10)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it needs a C++ compiler)")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="also write the times as JSON")
    args = parser.parse_args(arguments)
    config = load(RunConfig, args.config, args.override)
    experiment = build(config)
    if not isinstance(experiment, TextExperiment):
        raise UserError(f"expected a text configuration without a sweep, got {args.config}; e.g. configs/text_laptop.yaml")
    model = experiment.config.model
    tokens = np.random.default_rng(0).integers(0, model.vocabulary, (experiment.config.batch, model.length + 1)).astype(np.int32)
    runtime = runtimes.start(RuntimeConfig(device=config.runtime.device, compile_cache=""))
    where = torch_device(runtime.platform)
    arms: dict[str, Callable[[], float]] = {"sheaf": jax_step(config, experiment, tokens, runtime)}
    Attention.forward = fused_attention  # type: ignore[method-assign]
    key = jax.random.fold_in(jax.random.key(config.seed), 0)  # as the engine starts
    params = jax.jit(experiment.init)(key)[0]
    for name in ["torch eager", *([] if args.no_compile else ["torch.compile"])]:
        twin = of_text(experiment, params).twin.train().to(where)
        made = torch.compile(twin) if name == "torch.compile" else twin
        arms[name] = torch_step(made, torch.from_numpy(tokens).long().to(where), config)  # type: ignore[arg-type]
    first = {name: [step() for _ in range(3)] for name, step in arms.items()}  # compiles, and shows that the arms agree
    found = measure(arms, args.rounds)
    ours = float(np.median(found["sheaf"]))
    print(f"{args.config}: batch {experiment.config.batch}, {model.length} tokens, {where}, {torch.get_num_threads()} threads")
    for name, seconds in found.items():
        low, high = np.percentile(seconds, [25, 75])
        median = float(np.median(seconds))
        losses = ", ".join(f"{x:.5f}" for x in first[name])
        spread = f"({1e3 * low:.1f} - {1e3 * high:.1f})"
        print(f"{name:14} {1e3 * median:9.1f} ms {spread}, {median / ours:.2f} of ours; losses {losses}")
    rival = min(float(np.median(s)) for n, s in found.items() if n != "sheaf")
    print(f"ratio: the better of PyTorch takes {rival / ours:.3f} of our time")
    if args.out is not None:
        args.out.write_text(json.dumps({"device": where, "seconds": found, "ratio": rival / ours}, indent=1))
    return DONE


if __name__ == "__main__":
    heap.keep_freed()
    command_line(main)
