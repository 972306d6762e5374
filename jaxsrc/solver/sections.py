"""Parameter-free sections over a canvas: what each cell can know of its grid, in groups, and the colours it may copy.

A group is an int16[h, w, f] array of categorical values; two cells agree on a group where the values are equal.
Colours are 0-9, `NONE` (10) stands for "no such colour" and for whatever lies outside the grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jaxsrc.solver import regions, transport
from jaxsrc.solver.objects import EIGHT, FOUR, NONE, background, component_sections, components, enclosed
from jaxsrc.solver.symmetry import completions

ORTHOGONAL = ((-1, 0), (1, 0), (0, -1), (0, 1))
DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
LAYERS = 4  # layers of the canvas that are offered as colour sources
COMPASS = ("up", "down", "left", "right", "up-left", "up-right", "down-left", "down-right")
SOURCE_NAMES = (
    *(f"layer {i}" for i in range(LAYERS)),
    *(f"ray {d}" for d in COMPASS),
    *("background", "most frequent", "second", "least frequent"),
    *("of the lines rows", "of the lines columns"),
    *("of the object", "second of the object"),
    *("by translation", "by reflection", "nearest", "partner", "local majority", "of the box"),
    *(f"fallen {d}" for d in COMPASS[:4]),
    *(f"end {d}" for d in COMPASS[:4]),
    *(f"corner {d}" for d in COMPASS[4:]),
    *(f"neighbor {d}" for d in COMPASS),
)
SOURCES = len(SOURCE_NAMES)


@dataclass(frozen=True)
class Sections:
    """groups: name -> int16[h, w, f]; sources: int16[h, w, SOURCES], the colours that a cell may copy."""

    groups: dict[str, np.ndarray]
    sources: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        return self.sources.shape[0], self.sources.shape[1]


def neighbor(grid: np.ndarray, step: tuple[int, int]) -> np.ndarray:
    """Value at cell + step, `NONE` beyond the border."""
    h, w = grid.shape
    padded = np.full((h + 4, w + 4), NONE, grid.dtype)
    padded[2 : h + 2, 2 : w + 2] = grid
    return padded[2 + step[0] : 2 + step[0] + h, 2 + step[1] : 2 + step[1] + w]


def ray(grid: np.ndarray, base: int, step: tuple[int, int]) -> np.ndarray:
    """First colour other than `base` strictly beyond each cell in direction `step`, `NONE` if there is none."""
    dr, dc = step
    if dr == 0:
        return ray(grid.T, base, (dc, 0)).T
    h, w = grid.shape
    out = np.full((h, w), NONE, grid.dtype)
    for r in range(h) if dr < 0 else range(h - 1, -1, -1):
        if not 0 <= r + dr < h:
            continue
        ahead = np.where(grid[r + dr] != base, grid[r + dr], out[r + dr])
        padded = np.full(w + 2, NONE, grid.dtype)
        padded[1:-1] = ahead
        out[r] = padded[1 + dc : 1 + dc + w]
    return out


def stack(*fields: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(f, np.int16) for f in fields], -1)


def _positions(h: int, w: int) -> dict[str, np.ndarray]:
    r, c = np.mgrid[:h, :w]
    rim = np.minimum(np.minimum(r, h - 1 - r), np.minimum(c, w - 1 - c))
    return {
        "parity": stack(r % 2, c % 2),
        "checker": stack((r + c) % 2),
        "mod3": stack(r % 3, c % 3),
        "row": stack(r),
        "column": stack(c),
        "row from bottom": stack(h - 1 - r),
        "column from right": stack(w - 1 - c),
        "rim": stack(rim),
        "diagonals": stack(np.sign(r - c), np.sign(r + c - (w - 1))),
    }


def _object_groups(kind: str, field: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    groups = {
        "size": stack(field["size"]),
        "rank": stack(field["size_rank"]),
        "extreme": stack(field["largest"], field["smallest"]),
        "box": stack(field["height"], field["width"]),
        "kind": stack(field["solid"], field["holes"]),
        "border": stack(field["border"]),
        "twins": stack(field["twins"]),
        "equal size": stack(field["equal_size"]),
        "edge": stack(*(field[side] == 0 for side in ("top", "bottom", "left", "right"))),
        "offset": stack(field["top"], field["left"]),
        "offset from end": stack(field["bottom"], field["right"]),
    }
    return {f"{kind} {name}": value for name, value in groups.items()}


def _line_groups(grid: np.ndarray, base: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """What a whole row or column says of its cells; also the majority colours int16[h, w] of row and column."""
    h, w = grid.shape
    shown = np.eye(10, dtype=int)[grid]
    shown[..., base] = 0
    wide = lambda row, column: (np.broadcast_to(row[:, None], (h, w)), np.broadcast_to(column[None], (h, w)))
    counts = shown.sum(1), shown.sum(0)
    majority = wide(*(np.where(n.max(-1) > 0, n.argmax(-1), NONE) for n in counts))
    total = wide(*(np.minimum(n.sum(-1), 9) for n in counts))
    pattern = wide(*((n > 0) @ (1 << np.arange(10)) for n in counts))
    groups = {
        "row majority": stack(majority[0]),
        "column majority": stack(majority[1]),
        "lines used": stack(*wide(*(n.sum(-1) > 0 for n in counts))),
        "row count": stack(total[0]),
        "column count": stack(total[1]),
        "lines full": stack(*wide(counts[0].max(-1) == w, counts[1].max(-1) == h)),
        "row colors": stack(pattern[0]),
        "column colors": stack(pattern[1]),
    }
    return groups, majority[0], majority[1]


def sections(layers: list[np.ndarray]) -> Sections:
    """All groups and sources of a canvas whose first layer is the picture to read.

    layers: int[h, w] each, the first of colours 0-9; further layers may hold counts as well, so they are compared, not
    drawn on, except where a source copies them.
    """
    grid = np.asarray(layers[0], np.int16)
    h, w = grid.shape
    base = background(grid)
    near = {step: neighbor(grid, step) for step in ORTHOGONAL + DIAGONAL}
    rays = {step: ray(grid, base, step) for step in ORTHOGONAL + DIAGONAL}
    groups = {
        "self": stack(grid),
        "neighbors": stack(*(near[s] for s in ORTHOGONAL)),
        "corners": stack(*(near[s] for s in DIAGONAL)),
        "ring": stack(
            *(neighbor(grid, (a, b)) for a in range(-2, 3) for b in range(-2, 3) if max(abs(a), abs(b)) == 2)
        ),
        "rays": stack(*(rays[s] for s in ORTHOGONAL)),
        "diagonal rays": stack(*(rays[s] for s in DIAGONAL)),
        "between": stack(*(_agree(rays[a], rays[b]) for a, b in ((ORTHOGONAL[:2]), (ORTHOGONAL[2:])))),
    }
    for index, layer in enumerate(layers[1:], 1):
        groups[f"layer {index}"] = stack(layer)
    groups |= _positions(h, w)
    field = {}
    for kind, structure, one_color in (("four", FOUR, True), ("eight", EIGHT, True), ("any", EIGHT, False)):
        _, found = components(grid, base, structure, one_color)
        field = component_sections(grid, base, found)
        groups |= _object_groups(kind, field)
    count = len(found)
    groups["any colors"] = stack(field["colors"])
    groups["any palette"] = stack(field["first"], field["second"])
    inside = enclosed(grid, base, FOUR)
    labels, _ = regions.label(grid == base)
    areas = np.minimum(np.bincount(labels.ravel()), 30)
    groups["enclosed"] = stack(inside)
    groups["enclosed strictly"] = stack(enclosed(grid, base, EIGHT))
    groups["enclosed area"] = stack(np.where(inside, areas[labels], 0))
    lines, row_majority, column_majority = _line_groups(grid, base)
    groups |= lines
    counts = np.bincount(grid.ravel(), minlength=10)
    order = np.argsort(np.where(np.arange(10) == base, counts.max() + 1, counts) * -1, kind="stable")
    rank = np.empty(10, int)
    rank[order] = np.arange(10)
    present = [int(c) for c in order if counts[c] and c != base] or [NONE]
    palette = [np.full((h, w), c) for c in (base, present[0], present[1] if len(present) > 1 else NONE, present[-1])]
    groups["frequency rank"] = stack(rank[grid])
    groups["rarest"] = stack(grid == present[-1])
    groups["palette"] = stack(palette[0], palette[1], palette[3])
    groups["colors"] = stack(np.full((h, w), len(present) if present != [NONE] else 0))
    groups["objects"] = stack(np.full((h, w), min(count, 9)))
    groups["orientation"] = stack(np.full((h, w), np.sign(h - w) + 1))
    nearest, distance = transport.nearest(grid, base)
    box = transport.box_colors((h, w), found)
    by_translation, by_reflection = completions(grid)
    groups["distance"] = stack(distance)
    groups["distance parity"] = stack(distance % 2)
    groups["nearest"] = stack(nearest)
    groups["box"] = stack(box != NONE)
    groups["box color"] = stack(box)
    blank = np.full((h, w), NONE)
    copies = [*layers[:LAYERS], *[blank] * (LAYERS - len(layers[:LAYERS]))]
    sources = stack(
        *(*copies, *rays.values(), *palette, row_majority, column_majority, field["first"], field["second"]),
        *(by_translation, by_reflection, nearest, transport.partner(grid, base), transport.local_majority(grid), box),
        *(*transport.fallen(grid, base), *transport.line_ends(grid), *transport.corners(grid), *near.values()),
    )
    return Sections(groups, np.where((sources < 0) | (sources > 9), NONE, sources).astype(np.int16))


def _agree(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """0: the two rays differ, 1: both see nothing, 2: both see the same colour."""
    return (a == b) * 1 + ((a == b) & (a != NONE))
