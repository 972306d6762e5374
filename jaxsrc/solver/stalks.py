"""What the learned encoder reads of a cell: its colour sources and its parameter-free attributes, and how views move them.

A view (dihedral map) moves cells, and it also renames directions: what was seen above is seen to the left after a
transposition. The tables here permute the channels so that a view of the stalks equals the stalks of the view.
"""

from __future__ import annotations

import numpy as np

from jaxsrc.data.augment import dihedral
from jaxsrc.solver.sections import COMPASS, SOURCE_NAMES, Sections

# Four-sided fields, in the order top, bottom, left, right; two-sided ones in the order rows, columns.
_SIDES = ("top", "bottom", "left", "right")


def _fields() -> list[tuple[str, int, float, str, str]]:
    """(group, column, scale, family, side): side is one of _SIDES, 'rows', 'columns' or ''."""
    rows = []

    def plain(group: str, column: int, scale: float) -> None:
        rows.append((group, column, scale, f"{group} {column}", ""))

    for kind in ("four", "any"):
        for group, columns, scale in (
            ("size", 1, 0.1), ("rank", 1, 0.3), ("extreme", 2, 0.5), ("kind", 2, 0.5), ("border", 1, 0.5),
            ("twins", 1, 0.5), ("equal size", 1, 0.5),
        ):  # fmt: skip
            for column in range(columns):
                plain(f"{kind} {group}", column, scale)
        rows += [(f"{kind} box", i, 0.15, f"{kind} box", side) for i, side in enumerate(("rows", "columns"))]
        rows += [(f"{kind} edge", i, 1.0, f"{kind} edge", side) for i, side in enumerate(_SIDES)]
        for group, sides in (("offset", ("top", "left")), ("offset from end", ("bottom", "right"))):
            rows += [(f"{kind} {group}", i, 0.2, f"{kind} offset", side) for i, side in enumerate(sides)]
    for group, scale in (
        ("any colors", 0.5), ("enclosed", 1.0), ("enclosed strictly", 1.0), ("enclosed area", 0.1),
        ("rim", 0.2), ("frequency rank", 0.3), ("rarest", 1.0), ("colors", 0.3), ("objects", 0.2),
    ):  # fmt: skip
        plain(group, 0, scale)
    for group, side in (("row", "top"), ("row from bottom", "bottom"), ("column", "left"), ("column from right", "right")):
        rows.append((group, 0, 0.1, "position", side))
    rows += [("between", i, 0.5, "between", side) for i, side in enumerate(("columns", "rows"))]
    rows += [("lines used", i, 1.0, "lines used", side) for i, side in enumerate(("rows", "columns"))]
    rows += [("lines full", i, 1.0, "lines full", side) for i, side in enumerate(("rows", "columns"))]
    rows += [(f"{g} count", 0, 0.2, "line count", s) for g, s in (("row", "rows"), ("column", "columns"))]
    return rows


FIELDS = _fields()
ATTRIBUTES = len(FIELDS) + 8  # the fields, then parity and remainder by three counted from each side


ATTRIBUTE_SCALE = np.array([f[2] for f in FIELDS] + [1.0] * 4 + [0.5] * 4, np.float32)


def attributes(found: Sections) -> np.ndarray:
    """int8[h, w, ATTRIBUTES]; times ATTRIBUTE_SCALE each is about one."""
    h, w = found.shape
    columns = [found.groups[group][..., column] for group, column, _, _, _ in FIELDS]
    r, c = np.mgrid[:h, :w]
    sides = (r, h - 1 - r, c, w - 1 - c)
    columns += [side % 2 for side in sides] + [side % 3 for side in sides]
    return np.stack(columns, -1).astype(np.int8)


def _rename(view: int) -> dict[str, str]:
    """Name of each side in the picture before the view that becomes that side after it.

    Views: 0-3 turn by that many quarter turns against the clock (numpy.rot90), 4-7 transpose after that.
    """
    mark = np.zeros((3, 3), int)
    mark[0, 1], mark[2, 1], mark[1, 0], mark[1, 2] = 1, 2, 3, 4
    moved = dihedral(mark, view)
    names: dict[int, str] = dict(zip((1, 2, 3, 4), _SIDES, strict=True))
    out = {side: names[int(moved[cell])] for side, cell in zip(_SIDES, ((0, 1), (2, 1), (1, 0), (1, 2)), strict=True)}
    swapped = out["top"] in ("left", "right")
    return out | {"rows": "columns" if swapped else "rows", "columns": "rows" if swapped else "columns", "": ""}


def attribute_order(view: int) -> np.ndarray:
    """int[ATTRIBUTES]: channel i after the view is channel order[i] before it."""
    rename = _rename(view)
    where = {(family, side): i for i, (_, _, _, family, side) in enumerate(FIELDS)}
    order = [where[family, rename[side]] for _, _, _, family, side in FIELDS]
    for start in (len(FIELDS), len(FIELDS) + 4):
        order += [start + _SIDES.index(rename[side]) for side in _SIDES]
    return np.array(order)


def source_order(view: int) -> np.ndarray:
    """int[SOURCES]: source i after the view is source order[i] before it. Layers keep their places."""
    mark = np.array([[5, 1, 6], [3, 0, 4], [7, 2, 8]])
    cells = ((0, 1), (2, 1), (1, 0), (1, 2), (0, 0), (0, 2), (2, 0), (2, 2))
    moved = dihedral(mark, view)
    rename = {name: COMPASS[int(moved[cell]) - 1] for name, cell in zip(COMPASS, cells, strict=True)}
    if rename["up"] in ("left", "right"):
        rename |= {"rows": "columns", "columns": "rows"}
    where = {name: i for i, name in enumerate(SOURCE_NAMES)}

    def before(name: str) -> str:
        family, _, side = name.rpartition(" ")
        return f"{family} {rename[side]}" if side in rename else name

    return np.array([where[before(name)] for name in SOURCE_NAMES])


SOURCE_ORDERS = np.stack([source_order(v) for v in range(8)])
ATTRIBUTE_ORDERS = np.stack([attribute_order(v) for v in range(8)])
