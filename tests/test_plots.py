"""Pictures: the official palette on whole pixels, legible without colour, written whole or not at all."""

import numpy as np
import pytest
from PIL import Image

from jaxsrc.errors import UserError
from jaxsrc.plots import style
from jaxsrc.plots.cells import canvas, draw_grid
from jaxsrc.plots.grids import GalleryRow, errors, gallery_page

A = np.arange(9).reshape(3, 3)


def row(*attempts, truth=A):
    return GalleryRow(title="t", scale="s", demonstrations=[(A, A)], test=A, attempts=attempts, truth=truth)


def test_cells_have_the_official_colours_on_whole_pixels(tmp_path):
    figure, axes = canvas(60, 60)
    draw_grid(axes, A, 15.0, 15.0, 10)
    png, svg = style.save(figure, tmp_path / "grid.png")
    pixels = np.asarray(Image.open(png).convert("RGB"))
    for (y, x), value in np.ndenumerate(A):
        shown = "#{:02X}{:02X}{:02X}".format(*pixels[20 + 10 * y, 20 + 10 * x])
        assert shown == style.PALETTE[value].upper()
    assert svg.read_text().startswith("<?xml")


@pytest.mark.parametrize("bad", [np.full((2, 2), 10), np.full((1, 2), -1), np.zeros((0, 2), int)])
def test_what_is_no_grid_is_not_drawn(bad):
    with pytest.raises(ValueError, match="expected a grid of colours 0-9"):
        draw_grid(canvas(50, 50)[1], bad, 0.0, 0.0, 10)


def test_a_row_tells_what_became_of_its_attempts():
    wrong = np.where(A == 4, 0, A)
    assert row(wrong, A).outcome == "solved" and row(wrong, A).solved_by == 2
    assert row(wrong, wrong).outcome == "failed"
    assert row(A, truth=None).outcome == "unknown"
    nearest = row(A[:2], wrong).nearest
    assert nearest is not None and nearest[0] == 2
    assert errors(wrong, A) == 1 and errors(A[:2], A) == float("inf")


def test_a_page_draws_rows_of_every_kind(tmp_path):
    figure = gallery_page([row(A, None), row(np.zeros((2, 2), int), A), row(None, None, truth=None)], title="a page")
    png, _ = style.save(figure, tmp_path / "page")
    pixels = np.asarray(Image.open(png).convert("L"))
    assert pixels.std() > 20 and min(pixels.shape) > 300


def test_models_differ_in_grey_in_dash_and_in_marker():
    styles = [*style.MODEL_STYLES, *style.BASELINE_STYLES]
    assert len({(s.marker, s.dash) for s in styles}) == len(styles)
    luminance = [sum(int(s.color[i : i + 2], 16) * w for i, w in ((1, 0.3), (3, 0.59), (5, 0.11))) for s in styles]
    assert min(np.diff(sorted(luminance))) > 3


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="expected to write pictures"):
        style.save(canvas(10, 10)[0], tmp_path / "file" / "picture")
