"""Grids as tokens on a square canvas, the layout of TRM: 0 outside, 1 along the lower and right border, 2 + colour inside."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int8, UInt8

from jaxsrc.data.arc import COLORS, MAX_SIDE
from jaxsrc.errors import UserError

PAD, BORDER, FIRST_COLOR = 0, 1, 2
VOCABULARY = FIRST_COLOR + COLORS


def check_grid(grid: Any, where: str = "grid") -> np.ndarray:
    """The grid as uint8[h, w]; UserError unless it is rectangular, 1 to 30 cells a side, of colours 0 to 9."""
    try:
        found = np.asarray(grid)
    except ValueError:
        found = np.empty(0, object)
    if found.ndim != 2 or found.dtype.kind not in "iu":
        got = "rows of different lengths or no numbers" if found.dtype == object else f"{found.dtype.name}{list(found.shape)}"
        raise UserError(f"{where}: expected rows of whole numbers, all of one length, got {got}; mend the task")
    if not all(1 <= side <= MAX_SIDE for side in found.shape):
        raise UserError(f"{where}: expected sides of 1 to {MAX_SIDE}, got {' x '.join(map(str, found.shape))}; leave it out")
    if found.min() < 0 or found.max() >= COLORS:
        bad = found.min() if found.min() < 0 else found.max()
        raise UserError(f"{where}: expected colours 0 to {COLORS - 1}, got {bad}; mend the task")
    return found.astype(np.uint8)


def encode(grid: np.ndarray, side: int) -> Int8[np.ndarray, "s"]:
    """The grid top-left on a canvas of side x side tokens, row by row; the border falls away where there is no room.

    Errors: UserError for a grid larger than the canvas or none at all.
    """
    grid = check_grid(grid)
    h, w = grid.shape
    if max(h, w) > side:
        raise UserError(f"expected grids of at most {side} x {side} (the canvas), got {h} x {w}; enlarge experiment.model.side")
    canvas = np.full((side, side), PAD, np.int8)
    canvas[h : h + 1, :w], canvas[:h, w : w + 1] = BORDER, BORDER  # not the corner
    canvas[:h, :w] = grid + FIRST_COLOR
    return canvas.ravel()


def decode(tokens: np.ndarray, side: int) -> UInt8[np.ndarray, "h w"]:
    """The largest rectangle of colours at the top-left corner; 0 x 0 where the first token is no colour."""
    colors = (tokens.reshape(side, side) >= FIRST_COLOR) & (tokens.reshape(side, side) < VOCABULARY)
    widths = np.minimum.accumulate(np.where(colors.all(1), side, colors.argmin(1)))
    areas = widths * np.arange(1, side + 1)
    h = int(areas.argmax()) + 1
    w = int(widths[h - 1])
    if not w:
        return np.zeros((0, 0), np.uint8)
    return (tokens.reshape(side, side)[:h, :w] - FIRST_COLOR).astype(np.uint8)
