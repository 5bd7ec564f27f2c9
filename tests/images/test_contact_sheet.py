"""Pictures on disk: PNG and contact sheets."""

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures.slides import tissue_image
from ldm.errors import UserError
from ldm.images.contact_sheet import contact_sheet, save_png


def test_png_round_trip(tmp_path):
    save_png(tmp_path / "new" / "a.png", tissue_image(40, 30))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), tissue_image(40, 30))


@pytest.mark.parametrize("side", [32, 128])
def test_contact_sheet_shows_every_picture_unscaled(tmp_path, side):
    colours = [[(250, 0, 0), (0, 250, 0)], [(0, 0, 250)]]
    rows = [[np.full((side, side, 3), colour, np.uint8) for colour in row] for row in colours]
    contact_sheet(rows, ["first", "second"], ["real", "generated"], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    for colour in (colour for row in colours for colour in row):
        assert (sheet == colour).all(-1).sum() == side * side


def test_contact_sheet_labels_leave_ink(tmp_path):
    rows = [[np.full((64, 64, 3), 255, np.uint8)]]
    contact_sheet(rows, [""], [""], tmp_path / "bare.png")
    contact_sheet(rows, ["20x"], ["real"], tmp_path / "labelled.png")
    assert np.asarray(Image.open(tmp_path / "bare.png")).min() == 255
    assert np.asarray(Image.open(tmp_path / "labelled.png")).min() < 100


def test_contact_sheet_refuses_wrong_labels(tmp_path):
    rows = [[tissue_image(16, 16)]]
    with pytest.raises(UserError, match="expected one each"):
        contact_sheet(rows, ["a", "b"], ["c"], tmp_path / "sheet.png")
    with pytest.raises(UserError, match="no pictures"):
        contact_sheet([], [], [], tmp_path / "sheet.png")
