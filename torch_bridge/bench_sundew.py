"""Our gate beside the published packages, in one process: events a second, and the time of an epoch.

Needs `pip install sundew-algorithms adaptive-sparse-training`; they are used here and nowhere else.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import jax
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from jaxsrc import runtime as runtimes
from jaxsrc.data.images import ImageDataConfig
from jaxsrc.errors import DONE, UserError, command_line
from jaxsrc.gate_arms import Arm
from jaxsrc.gate_config import DenseGate, SundewGate
from jaxsrc.image_experiment import ImageConfig, ImageExamples
from jaxsrc.models.vit import ViTConfig
from jaxsrc.modules.sundew import SundewConfig, batched, draws, sequential, start
from jaxsrc.optim import OptimConfig
from jaxsrc.prefetch import whole
from jaxsrc.runtime import Runtime, RuntimeConfig

OURS, THEIRS = 4_000_000, 20_000  # events timed
EVENTS, BATCH = 256, 128  # events of a batched call, pictures of a step


def package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        wanted = "pip install sundew-algorithms adaptive-sparse-training"
        raise UserError(f"expected the published package {name} to compare with, got none; {wanted}") from None


def timed(run: Callable[[], Any]) -> Callable[[], float]:
    """The call, giving the seconds that it took."""

    def seconds() -> float:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin

    return seconds


def best(seconds: Callable[[], float], rounds: int) -> float:
    """The least of some rounds, after one that does not count."""
    seconds()
    return min(seconds() for _ in range(rounds))


def events(rounds: int) -> list[tuple[str, float]]:
    """(what, events a second); scores of ours are given as arrays, features of theirs as the dicts that they take."""
    theirs, settings = package("sundew.core").SundewAlgorithm, package("sundew.config").SundewConfig
    config = SundewConfig()
    scores = jax.random.uniform(jax.random.key(0), (OURS,))
    drawn = draws(jax.random.key(1), (OURS,))
    one = jax.jit(lambda s, d: sequential(config, start(config), s, d))
    cut = lambda x: x.reshape(-1, EVENTS)
    many = jax.jit(lambda s, d: batched(config, start(config), cut(s), jax.tree.map(cut, d)))
    rate = lambda gate: OURS / best(timed(lambda: jax.block_until_ready(gate(scores, drawn))), rounds)
    found = [("ours, one event after another", rate(one)), (f"ours, batches of {EVENTS}", rate(many))]
    rng = random.Random(0)
    names = ("anomaly_score", "context_relevance", "urgency")
    stream = [{"magnitude": 100 * rng.random(), **{n: rng.random() for n in names}} for _ in range(THEIRS)]

    def process() -> None:
        algorithm = theirs(settings())
        for event in stream:
            algorithm.process(event)

    return [*found, ("sundew-algorithms, one event after another", THEIRS / best(timed(process), rounds))]


class TorchViT(torch.nn.Module):
    """The published vision transformer: torch's own post-norm encoder, class token, learned places."""

    def __init__(self, config: ViTConfig, side: int = 32, channels: int = 3):
        super().__init__()
        n = (side // config.patch) ** 2
        self.embed = torch.nn.Conv2d(channels, config.width, config.patch, config.patch)
        self.token = torch.nn.Parameter(torch.zeros(1, 1, config.width))
        self.places = torch.nn.Parameter(0.02 * torch.randn(1, n + 1, config.width))
        layer = torch.nn.TransformerEncoderLayer(config.width, config.heads, config.hidden, config.dropout, batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, config.layers)
        self.head = torch.nn.Sequential(torch.nn.LayerNorm(config.width), torch.nn.Linear(config.width, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.layers(x)[:, 0])


def epochs(samples: int, rate: float, rounds: int, width: int, layers: int, runtime: Runtime) -> list[tuple[str, float]]:
    """(what, seconds of an epoch of `samples` pictures): plain torch, the published trainer, ours dense and with memory.

    Each is the least of the rounds, making batches within it. Ours runs ten steps in a call, so where an epoch has fewer it is
    a share of that.
    """
    published = package("adaptive_sparse_training")
    size = ViTConfig(width=width, heads=max(width // 32, 1), hidden=2 * width, layers=layers)
    config = replace(size, dropout=0.1, norm="post", activation="relu", pooling="class")
    rng = np.random.default_rng(0)
    pictures = torch.tensor(rng.normal(size=(samples, 3, 32, 32)), dtype=torch.float32)
    labels = torch.tensor(rng.integers(0, 10, samples))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(pictures, labels), batch_size=BATCH)
    model = TorchViT(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)

    def plain() -> None:
        model.train()
        for x, y in loader:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(model(x), y).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

    settings = published.ASTConfig(target_activation_rate=rate, use_amp=False, device="cpu")
    trainer = published.AdaptiveSparseTrainer(TorchViT(config), loader, loader, settings)
    found = [("PyTorch, plain", best(timed(plain), rounds))]
    found.append(("adaptive-sparse-training", best(timed(lambda: trainer.train_epoch(1)), rounds)))
    data = ImageDataConfig(source="cifar10", examples=samples)
    images = ImageConfig(data=data, model=config, batch=BATCH, epochs=10)
    shapes = ImageExamples(images).resident_shapes  # no pictures are read
    resident = whole({k: rng.integers(0, 10, v.shape).astype(v.dtype) for k, v in shapes.items()}, runtime)
    for name, gate in (("ours, plain", DenseGate()), (f"ours, gate with memory at {rate:g}", SundewGate(rate=rate))):
        arm = Arm(name, gate, images, OptimConfig(learning_rate=1e-4), runtime)
        found.append((name, best(lambda arm=arm: arm.seconds_an_epoch(resident), rounds)))
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench_sundew", description=__doc__)
    parser.add_argument("what", choices=["events", "epochs"])
    parser.add_argument("--samples", type=int, default=1280, help="pictures of an epoch (default 1280)")
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--width", type=int, default=256, help="of the published vision transformer (default 256, as published)")
    parser.add_argument("--layers", type=int, default=6, help="(default 6, as published)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(arguments)
    runtime = runtimes.start(RuntimeConfig(device="cpu"))
    if args.what == "events":
        table = Table("gate", "million events a second", "ratio to the package")
        found = events(args.rounds)
        for name, rate in found:
            table.add_row(name, f"{rate / 1e6:.3f}", f"{rate / found[-1][1]:.0f}")
    else:
        table = Table("trainer", "s an epoch", "ratio to the published trainer")
        found = epochs(args.samples, args.rate, args.rounds, args.width, args.layers, runtime)
        for name, seconds in found:
            table.add_row(name, f"{seconds:.3f}", f"{found[1][1] / seconds:.2f}")
    Console(width=110).print(table)
    return DONE


if __name__ == "__main__":
    command_line(main)
