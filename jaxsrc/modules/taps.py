"""Named intermediate values of a forward pass, kept or replaced from outside; plain function calls, so `jit` and `vmap` hold."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping

from jaxtyping import Array

from jaxsrc.errors import UserError

Edit = Callable[[Array], Array]


class Taps:
    """Passed down a forward pass; every block calls `taps(name, value)` and goes on with what comes back.

    edits: name -> function of the value, applied there; keep: names whose value (after its edit) lands in `kept`. `names`
    lists every tap in the order of the computation. A fresh object belongs to each traced call.
    """

    def __init__(self, edits: Mapping[str, Edit] | None = None, keep: Collection[str] = ()):
        self.edits = dict(edits or {})
        self.keep = set(keep)
        self.kept: dict[str, Array] = {}
        self.names: list[str] = []

    def __call__(self, name: str, value: Array) -> Array:
        self.names.append(name)
        if name in self.edits:
            new = self.edits[name](value)
            if new.shape != value.shape:
                raise ValueError(f"{name}: expected an edit that keeps the shape {value.shape}, got {new.shape}")
            value = new.astype(value.dtype)
        if name in self.keep:
            self.kept[name] = value
        return value

    def skip(self, name: str) -> None:
        """Note a value that a fused computation did not form."""
        self.names.append(name)

    def wants(self, name: str) -> bool:
        """Whether a value is kept or edited, so that a fused computation that never forms it must give way."""
        return name in self.keep or name in self.edits

    def check(self) -> None:
        """After the forward pass: UserError for a wanted name that the model does not have."""
        for name in sorted({*self.edits, *self.keep} - set(self.names)):
            near = difflib.get_close_matches(name, self.names, 3, 0.3)
            raise UserError(f"expected the name of an intermediate value, got '{name}'; near ones: {', '.join(near) or 'none'}")


class NoTaps(Taps):
    """Keeps and edits nothing."""

    def __call__(self, name: str, value: Array) -> Array:
        return value

    def skip(self, name: str) -> None:
        return


NONE = NoTaps()
