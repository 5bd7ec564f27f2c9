"""The page as a folder."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures.slides import tissue_image
from ldm.cli import view
from ldm.errors import UserError
from ldm.view.catalogue import catalogue
from ldm.view.export import export
from ldm.view.site import Site
from tests.view.conftest import Served


def test_an_export_holds_every_answer_of_the_server(served: Served, tmp_path: Path) -> None:
    site = served.site
    site.entries = [entry for entry in site.entries if entry.name in ("slide.tiff", "prepared.h5")]
    export(site, tmp_path)
    files = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len([name for name in files if name.startswith("tiles/1/0/")]) == 3 * 2 + 2 + 1
    for name, content in files.items():
        assert served.get(name).body == content, name


def test_tiles_of_an_export_are_the_pixels_of_the_file(pictures: Path, tmp_path: Path, library: None) -> None:
    export(Site("x", catalogue([pictures / "picture.jpg"])[0]), tmp_path)
    tile = np.asarray(Image.open(io.BytesIO((tmp_path / "tiles/0/0/0/0_0.png").read_bytes())))
    assert np.array_equal(tile, np.asarray(Image.open(pictures / "picture.jpg")))


def test_a_folder_with_something_in_it_is_not_written_to(pictures: Path, tmp_path: Path, library: None) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty; choose a new folder"):
        view.main([str(pictures / "picture.jpg"), "--export", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_that_cannot_be_shown_leaves_no_page(pictures: Path, tmp_path: Path, library: None) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        view.main([str(pictures), "--export", str(tmp_path / "page")])
    assert not (tmp_path / "page/index.html").exists()


def test_an_export_is_not_shown_in_place_of_its_images(pictures: Path, tmp_path: Path, library: None) -> None:
    """Tiles are pictures, too, but nobody means them."""
    Image.fromarray(tissue_image(20, 20)).save(tmp_path / "own.png")
    export(Site("x", catalogue([pictures / "slide.tiff"])[0]), tmp_path / "page")
    entries, (note,) = catalogue([tmp_path])
    assert [entry.name for entry in entries] == ["own.png"]
    assert "pictures of web pages (in folders with an index.html) were left out" in note


def test_slides_beside_a_web_page_are_shown(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "cohort").mkdir()
    for name in ("slide.tiff", "prepared.h5"):
        (tmp_path / "cohort" / name).write_bytes((pictures / name).read_bytes())
    (tmp_path / "cohort/index.html").touch()
    assert [entry.name for entry in catalogue([tmp_path])[0]] == ["cohort/prepared.h5", "cohort/slide.tiff"]
