"""What a gate asks of data and model: samples that lie on the device, and losses of each of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from jaxsrc.protocol import PyTree
from jaxsrc.report import Report


class PerExample(NamedTuple):
    """loss: what is trained on; measured: see `significance.of_logits`; right: share right, in [0, 1]; early: loss of the
    head that the proxy policy scores with, zeros where there is none."""

    loss: Float[Array, "b"]
    measured: Float[Array, "b 4"]
    right: Float[Array, "b"]
    early: Float[Array, "b"]


class EarlyHead(NamedTuple):
    """A cheap scorer that is trained along. cost: share of a forward pass; measure: (parameters, rows) -> [b, 4], see
    `significance.of_logits`."""

    cost: float
    measure: Callable[[PyTree, dict[str, Array]], Float[Array, "b 4"]]


@runtime_checkable
class Examples(Protocol):
    """Training samples by number, with everything else that a run needs."""

    name: str
    batch: int
    epochs: float
    steps: int  # instead of the epochs, if not 0
    early: EarlyHead | None  # what the proxy policy scores with

    @property
    def count(self) -> int:
        """Training samples; reads no data."""
        ...

    @property
    def resident_shapes(self) -> dict[str, Any]:
        """Abstract values of `resident`; reads no data."""
        ...

    def resident(self) -> dict[str, Any]:
        """Arrays with one row a sample, put on the device once; 'spread' [count] among them."""
        ...

    def init(self, key: Array) -> PyTree:
        """Parameters; traceable."""
        ...

    def losses(self, params: PyTree, rows: dict[str, Array], key: Array | None) -> PerExample:
        """Of some rows of the resident arrays; key: of augmentation and dropout, None for neither."""
        ...

    def validate(self, params: PyTree) -> dict[str, float]:
        """Figures on data that were not trained on; names start with 'val/'."""
        ...

    def finish(self, params: PyTree, report: Report) -> None:
        """Tables and notes beside the gate's own."""
        ...


@runtime_checkable
class Gateable(Protocol):
    """An experiment whose samples a gate can choose from."""

    def examples(self) -> Examples: ...
