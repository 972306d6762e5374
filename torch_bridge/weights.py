"""Weight maps: which torch tensor is which of our parameters, in both directions, every tensor exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from jaxsrc.errors import UserError


@dataclass(frozen=True)
class Transform:
    """How a tensor's layout changes on its way to us, and back."""

    to_jax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(np.transpose, np.transpose)  # torch [out, in], ours [in, out]
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # [o, i, h, w] and [h, w, i, o]


@dataclass(frozen=True)
class Row:
    """One tensor: its name in torch, its dotted path here, and the change of layout."""

    torch: str
    path: str
    transform: Transform = SAME


def linear(torch_name: str, path: str, bias: bool = True) -> list[Row]:
    """Rows of a linear layer: weight <-> kernel, bias <-> bias."""
    rows = [Row(f"{torch_name}.weight", f"{path}.kernel", LINEAR)]
    return rows + [Row(f"{torch_name}.bias", f"{path}.bias")] * bias


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters to dotted paths."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def _rebuild(like: Mapping[Any, Any], flat: Mapping[str, Any], prefix: str = "") -> dict[Any, Any]:
    return {
        key: _rebuild(value, flat, f"{prefix}{key}.") if isinstance(value, Mapping) else flat[f"{prefix}{key}"]
        for key, value in like.items()
    }


@dataclass(frozen=True)
class WeightMap:
    """A table of rows that covers a torch state_dict and our parameters exactly."""

    rows: Sequence[Row]

    def _check(self, torch_names: Sequence[str], paths: Sequence[str]) -> list[str]:
        problems = []
        for side, named, present in (
            ("torch tensor", [r.torch for r in self.rows], set(torch_names)),
            ("parameter", [r.path for r in self.rows], set(paths)),
        ):
            problems += [f"{side} {n}: named by {named.count(n)} rows" for n in sorted(set(named)) if named.count(n) > 1]
            problems += [f"{side} {n}: expected by the map, absent" for n in sorted(set(named) - present)]
            problems += [f"{side} {n}: not in the map" for n in sorted(present - set(named))]
        return problems

    def to_jax(self, state: Mapping[str, torch.Tensor], like: Mapping[Any, Any]) -> dict[Any, Any]:
        """Our parameters, shaped and typed as `like`; UserError with every problem at once."""
        target = flatten(like)
        problems = self._check(list(state), list(target))
        flat: dict[str, np.ndarray] = {}
        for row in self.rows:
            if row.torch in state and row.path in target:
                value = row.transform.to_jax(state[row.torch].detach().cpu().numpy())
                want = target[row.path]
                if value.shape != tuple(want.shape):
                    problems.append(f"{row.path}: expected shape {tuple(want.shape)}, got {value.shape} of {row.torch}")
                flat[row.path] = np.ascontiguousarray(value).astype(want.dtype)
        if problems:
            raise UserError("\n".join(problems))
        return _rebuild(like, flat)

    def to_torch(self, params: Mapping[Any, Any], like: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A state_dict, shaped and typed as `like`; UserError with every problem at once."""
        source = flatten(params)
        problems = self._check(list(like), list(source))
        out: dict[str, torch.Tensor] = {}
        for row in self.rows:
            if row.torch in like and row.path in source:
                value = row.transform.to_torch(np.asarray(source[row.path]))
                if value.shape != tuple(like[row.torch].shape):
                    problems.append(
                        f"{row.torch}: expected shape {tuple(like[row.torch].shape)}, got {value.shape} of {row.path}"
                    )
                out[row.torch] = torch.from_numpy(np.ascontiguousarray(value).copy()).to(like[row.torch].dtype)
        if problems:
            raise UserError("\n".join(problems))
        return out
