"""The axes of a sweep, and the runs that they multiply to."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from jaxsrc.errors import UserError
from jaxsrc.models.gated_lm import GatedLMConfig
from jaxsrc.modules.gated_units import AlphaConfig, Gating, GatingKinds, Mode, Share, Unit, gating


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """Every axis left empty takes the run's own value. alpha: numbers are fixed alphas, words kinds of alpha with the
    model's other settings; over: 'vmap' trains all runs side by side, 'map' one after another within the one program,
    'auto' the first on a GPU and the second on a CPU; limit: a run whose loss passes this many times log(vocabulary), or
    is not finite, is frozen."""

    unit: tuple[Unit, ...] = ()
    alpha: tuple[Share | Mode, ...] = ()
    learning_rate: tuple[Annotated[float, Field(gt=0)], ...] = ()
    seed: tuple[Annotated[int, Field(ge=0, lt=2**32)], ...] = ()
    over: Literal["auto", "vmap", "map"] = "auto"
    limit: Annotated[float, Field(gt=0)] = 3.0


@dataclass(frozen=True)
class Member:
    """One run of a sweep."""

    unit: Unit
    alpha: AlphaConfig
    learning_rate: float
    seed: int

    @property
    def setting(self) -> str:
        """Everything but the seed, in words."""
        a = self.alpha
        shown = f"{a.value:g}" if a.kind == "fixed" else a.kind
        return f"{self.unit} alpha {shown} lr {self.learning_rate:g}"

    @property
    def name(self) -> str:
        return f"{self.setting} seed {self.seed}"

    def model(self, base: GatedLMConfig) -> GatedLMConfig:
        """The model of this run alone."""
        return replace(base, unit=self.unit, alpha=self.alpha)


def members(sweep: SweepConfig, model: GatedLMConfig, learning_rate: float, seed: int) -> list[Member]:
    """All runs, seeds fastest.

    Errors: UserError where the model's own unit cannot share a program, a value appears twice on an axis, or two runs would
    have one name.
    """
    if not sweep.unit and model.unit in ("mlp", "paGRU"):
        raise UserError(f"experiment.sweep.unit: expected units, since {model.unit} has parameters of its own; e.g. [paGLU]")
    axes = {"unit": sweep.unit, "alpha": sweep.alpha, "learning_rate": sweep.learning_rate, "seed": sweep.seed}
    for axis, values in axes.items():
        if len(set(values)) < len(values):
            raise UserError(f"experiment.sweep.{axis}: expected distinct values, got {list(values)}; drop the repeated one")
    units: tuple[Unit, ...] = sweep.unit or (model.unit,)  # type: ignore[assignment]
    named = lambda a: replace(model.alpha, kind=a) if isinstance(a, str) else replace(model.alpha, kind="fixed", value=float(a))
    alphas = [named(a) for a in sweep.alpha] or [model.alpha]
    grid = itertools.product(units, alphas, sweep.learning_rate or (learning_rate,), sweep.seed or (seed,))
    found = [Member(*one) for one in grid]
    name, times = Counter(m.name for m in found).most_common(1)[0]
    if times > 1:  # as by alpha: [0.5, fixed] where the model's own value is 0.5
        raise UserError(f"experiment.sweep: expected runs of distinct names, got '{name}' {times} times; change one")
    return found


def kinds_of_members(found: list[Member], model: GatedLMConfig) -> GatingKinds:
    """What the shared program chooses from: the units and kinds of alpha that occur, and no other."""
    units: tuple[Unit, ...] = tuple(dict.fromkeys(m.unit for m in found))
    modes: tuple[Mode, ...] = tuple(dict.fromkeys(m.alpha.kind for m in found))
    return GatingKinds(units, modes, model.alpha.per, model.alpha.temperature, model.gate_norm)


def gatings(found: list[Member], kinds: GatingKinds) -> list[Gating]:
    return [gating(kinds, m.unit, m.alpha, 0.0) for m in found]
