"""A model and its twin, layer by layer: the first value that differs, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jaxsrc.errors import UserError
from torch_bridge.exportable import Exportable, Inputs, tensors

BAR = 1e-5  # of the difference, against the largest of 1 and the layer's values


@dataclass(frozen=True)
class Layer:
    """difference: largest absolute one over max(1, largest absolute value)."""

    name: str
    difference: float
    scale: float

    @property
    def same(self) -> bool:
        return self.difference <= BAR


@dataclass(frozen=True)
class Parity:
    """Layers in the order of the computation."""

    layers: list[Layer]

    @property
    def first(self) -> Layer | None:
        """The first layer that diverges."""
        return next((x for x in self.layers if not x.same), None)

    def require(self) -> None:
        """UserError that names the first layer that diverges, and the last one that does not."""
        found = self.first
        if found is None:
            return
        index = self.layers.index(found)
        before = self.layers[index - 1].name if index else "the inputs"
        raise UserError(
            f"expected the twin to equal the model, got a difference of {found.difference:.2g} at {found.name}, the first that "
            f"diverges ({before} agrees); look at the weights and the code between them"
        )


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """(largest difference over max(1, largest value), that scale); infinite where a value is not finite or shapes differ."""
    scale = max(1.0, float(np.abs(ours).max(initial=0.0)))
    if ours.shape != theirs.shape or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return float("inf"), scale
    return float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0.0)) / scale, scale


def parity(made: Exportable, inputs: Inputs) -> Parity:
    """Every named value of both, and the output, on one input."""
    theirs: dict[str, np.ndarray] = {}

    def tap(name: str, value: torch.Tensor) -> torch.Tensor:
        theirs[name] = value.numpy()
        return value

    twin: Any = made.twin
    before = twin.tap
    try:
        twin.tap = tap
        with torch.no_grad():
            out = twin(*tensors(made, inputs)).numpy()
    finally:
        twin.tap = before
    ours = made.record(inputs) if made.record is not None else {}
    layers = [
        Layer(name, *difference(np.broadcast_to(ours[name], theirs[name].shape), theirs[name])) for name in ours if name in theirs
    ]
    return Parity([*layers, Layer(f"output {made.output}", *difference(made.jax(inputs), out))])
