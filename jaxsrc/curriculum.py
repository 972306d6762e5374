"""Stages over the scales of a data set: warm up on the smallest, extend to larger ones in closed form, tune where asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from jaxsrc.data.arc import SIDES


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """scale: largest scale whose tasks are trained on (0: sides up to 5, ... 5: up to 30); steps: 0 extends to this scale in
    closed form only; batch: tasks a step; demonstrations: known pairs of an episode."""

    scale: Annotated[int, Field(ge=0, lt=len(SIDES))] = 1
    steps: Annotated[int, Field(ge=0)] = 0
    batch: Annotated[int, Field(ge=1)] = 16
    demonstrations: Annotated[int, Field(ge=1, le=9)] = 3

    @property
    def side(self) -> int:
        return SIDES[self.scale]

    @property
    def name(self) -> str:
        verb = "train" if self.steps else "extend"
        return f"{verb} up to scale {self.scale} ({self.side} x {self.side})"
