"""Connected regions and distances of masks; the only importer of scipy.ndimage, whose types are looser than its behaviour."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import ndimage

FOUR = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
EIGHT = np.ones((3, 3), int)


def label(mask: np.ndarray, structure: np.ndarray = FOUR) -> tuple[np.ndarray, int]:
    """(int[h, w] with 1.. in each connected region and 0 elsewhere, number of regions)."""
    found: Any = ndimage.label(mask, structure=structure)
    return found[0], int(found[1])


def windows(labels: np.ndarray, count: int) -> list[tuple[slice, slice]]:
    """Bounding windows of regions 1..count."""
    found: Any = ndimage.find_objects(labels, max_label=count)
    return list(found)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    found: Any = ndimage.binary_fill_holes(mask)
    return found


def euclidean(mask: np.ndarray) -> np.ndarray:
    """Distance of every cell to the nearest one in the mask."""
    found: Any = ndimage.distance_transform_edt(~mask)
    return found


def chessboard(mask: np.ndarray) -> np.ndarray:
    """The same in king's moves."""
    found: Any = ndimage.distance_transform_cdt(~mask, metric="chessboard")
    return found
