"""What the engine asks of an experiment, and nothing else of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from jaxtyping import Array

if TYPE_CHECKING:
    from jaxsrc.report import Report

PyTree = Any
Leaf = Any  # an array of a struct, or what a transform puts in its place: shapes, shardings, values on the host
Metrics = dict[str, tuple[Array, Array]]  # name -> (sum, weight); the report shows sum / weight


@dataclass(frozen=True)
class Stage:
    """steps: how many; batch_at: (seed, global step) -> numpy pytree whose shapes never change within the stage;
    resident: numpy dict that is put on every device once and joins each batch there (so batches are dicts too), None for
    none; resident_shapes: its abstract values, known without reading data."""

    name: str
    steps: int
    batch_at: Callable[[int, int], PyTree]
    resident: Callable[[], dict[str, Any]] | None = None
    resident_shapes: PyTree = ()


@runtime_checkable  # the tests check argument types
class Experiment(Protocol):
    """A model with its data and loss. All arrays plain, all randomness by key."""

    @property
    def stages(self) -> Sequence[Stage]:
        """At least one; the global step decides the stage, and each stage compiles its step once. Reads no data yet."""
        ...

    def abstract_batch(self, stage: int) -> PyTree:
        """Shapes and types of a stage's batches, without reading data."""
        ...

    def init(self, key: Array) -> tuple[PyTree, PyTree]:
        """(params, carry): traceable; carry is state that the model updates itself, () if there is none."""
        ...

    def loss(
        self, params: PyTree, carry: PyTree, batch: PyTree, key: Array, *, train: bool
    ) -> tuple[Array, tuple[Metrics, PyTree]]:
        """Scalar loss of a batch, metric sums, and the carry after it."""
        ...

    def validate(self, params: PyTree, stage: int) -> dict[str, float]:
        """Host-level measurements between steps; names start with 'val/'. May be empty."""
        ...

    def finish(self, params: PyTree, report: Report) -> None:
        """Tables and pictures once training is over."""
        ...


@runtime_checkable
class Carried(Protocol):
    """An experiment whose measurements need the carry as well as the parameters."""

    def take(self, carry: PyTree) -> None:
        """The carry as it stands, before each `validate` and `finish`."""
        ...
