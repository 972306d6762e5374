"""A small regression experiment that trains in a second: the engine's tests and benches run it, also as a program.

As a program: python tests/toy.py --out RUN [key=value ...] [--budget-seconds S] [--dry-run]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from pydantic import Field

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jaxsrc import config as configuration
from jaxsrc.errors import DONE, command_line
from jaxsrc.loop import TrainConfig
from jaxsrc.optim import OptimConfig
from jaxsrc.protocol import Metrics, PyTree, Stage
from jaxsrc.runtime import RuntimeConfig


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """widths: of the hidden layers; stages: steps of each; pad: extra scalar parameters; wait: seconds a batch takes;
    poison: step whose batch holds a NaN, 0 for none; reshape: step whose batch is one row longer, 0 for none."""

    widths: tuple[int, ...] = (8, 8)
    inputs: Annotated[int, Field(ge=1)] = 4
    batch: Annotated[int, Field(ge=1)] = 8
    stages: tuple[int, ...] = (40,)
    noise: float = 0.1
    pad: Annotated[int, Field(ge=0)] = 0
    wait: float = 0.0
    poison: int = 0
    reshape: int = 0


def _toy_train() -> TrainConfig:
    return TrainConfig(log_every=1, checkpoint_every=10, eval_every=0)


@dataclass(frozen=True, kw_only=True)
class ToyRun:
    """A whole run of the toy."""

    name: str = "toy"
    seed: int = 0
    toy: ToyConfig = field(default_factory=ToyConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(warmup_steps=2, learning_rate=1e-2))
    train: TrainConfig = field(default_factory=_toy_train)
    runtime: RuntimeConfig = field(default_factory=lambda: RuntimeConfig(device="cpu"))


class Toy:
    """Regression of sin(sum x) by a small perceptron; see `protocol.Experiment`."""

    def __init__(self, config: ToyConfig):
        self.config = config

    @property
    def stages(self) -> Sequence[Stage]:
        return [Stage(f"stage {i}", steps, self.batch_at) for i, steps in enumerate(self.config.stages)]

    def batch_at(self, seed: int, step: int) -> dict[str, np.ndarray]:
        c = self.config
        if c.wait:
            time.sleep(c.wait)
        rows = c.batch + (step + 1 == c.reshape)
        x = np.random.default_rng((seed, step)).normal(size=(rows, c.inputs)).astype(np.float32)
        y = np.sin(x.sum(-1, keepdims=True))
        return {"x": x * np.float32("nan") if step + 1 == c.poison else x, "y": y}

    def abstract_batch(self, stage: int) -> PyTree:
        c = self.config
        return {n: jax.ShapeDtypeStruct((c.batch, d), jnp.float32) for n, d in (("x", c.inputs), ("y", 1))}

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        c = self.config
        sizes = [c.inputs, *c.widths, 1]
        layers = [
            {"w": jax.random.normal(jax.random.fold_in(key, i), (m, n)) / m**0.5, "b": jnp.zeros(n)}
            for i, (m, n) in enumerate(itertools.pairwise(sizes))
        ]
        pad = {f"p{i:03d}": jnp.full((2,), i / 1000) for i in range(c.pad)}
        return {"layers": tuple(layers), "pad": pad}, {"mean": jnp.zeros(c.inputs), "seen": jnp.int32(0)}

    def loss(
        self, params: PyTree, carry: PyTree, batch: PyTree, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        x = batch["x"]
        h = x + self.config.noise * jax.random.normal(key, x.shape, x.dtype)
        for layer in params["layers"]:
            h = jnp.tanh(h @ layer["w"] + layer["b"])
        pads = jax.tree.leaves(params["pad"])
        pull = sum((jnp.square(p).sum() for p in pads), jnp.zeros((), x.dtype))
        error = jnp.square(h - batch["y"]).astype(jnp.float32)
        mean = 0.9 * carry["mean"] + 0.1 * x.mean(0)
        metrics = {"loss": (error.sum(), jnp.float32(error.size)), "seen": (mean.sum(), jnp.float32(1))}
        return error.mean() + 1e-3 * pull, (metrics, {"mean": mean, "seen": carry["seen"] + 1})

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        host = jax.device_get(params)
        batch = Toy(ToyConfig(batch=16, inputs=self.config.inputs)).batch_at(10**6, stage)
        h = batch["x"]
        for layer in host["layers"]:
            h = np.tanh(h @ layer["w"] + layer["b"])
        return {"val/score": -float(np.square(h - batch["y"]).mean())}

    def finish(self, params: PyTree, report) -> None:
        rows = [[i, float(np.linalg.norm(layer["w"]))] for i, layer in enumerate(jax.device_get(params)["layers"])]
        report.table("toy", ["layer", "norm"], rows)


def plan(overrides: Sequence[str] = ()):
    """The toy's plan for `train.run`, with overrides as on a command line."""
    from jaxsrc.plan import Plan

    c = configuration.load(ToyRun, None, list(overrides))
    return Plan(c.name, c.seed, Toy(c.toy), c.optim, c.train, c.runtime, configuration.to_dict(c))


def main(arguments: list[str]) -> int:
    from jaxsrc import train
    from jaxsrc.dry_run import dry_run

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("override", nargs="*", metavar="key=value")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--budget-seconds", type=float, default=float("inf"))
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_intermixed_args(arguments)
    if args.dry_run:
        dry_run(plan(args.override))
        return DONE
    return train.run(plan(args.override), args.out, budget=args.budget_seconds, profile=args.profile)[0]


if __name__ == "__main__":
    command_line(main)
