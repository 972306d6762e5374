"""A model beside its torch twin: the same weights, the same inputs by name, and real inputs to compare them on."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import jax
import numpy as np
import torch

from jaxsrc.modules.taps import Taps

Inputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Flexible:
    """An input's axis whose size may be left open, and its largest size."""

    input: str
    axis: int
    kind: Literal["length", "batch"]
    most: int


@dataclass(frozen=True)
class Exportable:
    """twin: loaded, in evaluation mode, float32; jax: inputs -> output, float32; samples: that many real inputs, each with its
    labels int[n], -1 where unknown; scores:    (inputs, output) -> logits [n, c] where the output decides among classes."""

    name: str
    twin: torch.nn.Module
    inputs: tuple[str, ...]
    output: str
    jax: Callable[[Inputs], np.ndarray]
    samples: Callable[[int], list[tuple[Inputs, np.ndarray]]]
    scores: Callable[[Inputs, np.ndarray], np.ndarray]
    flexible: tuple[Flexible, ...] = ()
    causal: bool = False
    classes: int = 0
    record: Callable[[Inputs], dict[str, np.ndarray]] | None = None
    metadata: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _double(self) -> torch.nn.Module:
        """The twin in double precision, on the same float32 weights as they are when it is first asked for."""
        return copy.deepcopy(self.twin).to(torch.float64)

    def torch(self, inputs: Inputs, dtype: torch.dtype = torch.float32) -> np.ndarray:
        """The twin's output; dtype: float32, or float64 to compute on the same weights in double precision."""
        twin = self.twin if dtype == torch.float32 else self._double
        with torch.no_grad():
            return twin(*tensors(self, inputs, dtype)).numpy()


def tensors(made: Exportable, inputs: Inputs, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Inputs in the twin's order; integers stay integers."""
    found = [torch.from_numpy(np.array(inputs[n])) for n in made.inputs]
    return [t if not t.is_floating_point() else t.to(dtype) for t in found]


def record(call: Callable[[Taps], Any]) -> dict[str, np.ndarray]:
    """Every value that a call hands to its taps, by name; patterns and dropout, which a twin does not name, are left out."""
    seen = Taps()
    jax.eval_shape(lambda: call(seen))
    taps = Taps(keep=[n for n in seen.names if not n.endswith((".pattern", ".dropout"))])
    call(taps)
    return {n: np.asarray(taps.kept[n]) for n in taps.names if n in taps.kept}
