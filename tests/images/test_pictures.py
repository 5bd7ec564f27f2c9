"""User pictures in all common formats."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from ldm.errors import UserError
from ldm.images.pictures import destination, listed, read_located, read_picture, write_picture

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(("name", "exact"), [("a.png", True), ("a.tif", True), ("a.JPG", False)])
def test_the_format_and_the_profile_stay(name: str, exact: bool, tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = destination(tmp_path, name, *PIXELS.shape[:2])
    write_picture(path, iter(np.split(PIXELS, 2)), profile)
    pixels, found = read_picture(tmp_path / name)
    assert found == profile
    assert pixels.shape == PIXELS.shape
    assert not exact or (pixels == PIXELS).all()


def test_where_pictures_go() -> None:
    assert destination(Path("out"), "a.webp", 10, 10) == Path("out/a.png")
    assert destination(Path("out"), "a.jpg", 10, 4097) == Path("out/a.tiff")


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.tif")
    whole = tmp_path / "whole.png"
    Image.fromarray(PIXELS).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-60])
    (tmp_path / "empty").mkdir()
    for name, message in {
        "text.png": "cannot",
        "deep.tif": "8 bits",
        "cut.png": "cannot",
        "none.png": "cannot",
    }.items():
        with pytest.raises(UserError, match=f"{name}.*{message}") as caught:
            read_picture(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no image"):
        listed([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"absent\.png: does not exist"):
        listed([whole, tmp_path / "absent.png"])
    with pytest.raises(UserError, match="of one name"):
        listed([tmp_path, whole])


@pytest.mark.parametrize("suffix", [".tfw", ".TFW", ".WLD"])
def test_a_world_file_gives_a_place_whatever_its_letters(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / "A.TIF"
    Image.fromarray(PIXELS).save(path, format="TIFF")
    assert read_located(path).place is None
    path.with_suffix(suffix).write_text("3\n0\n0\n-3\n400001.5\n3999998.5\n")
    place = read_located(path).place
    assert place is not None
    assert place.transform == (3, 0, 400_000, 0, -3, 4_000_000)
