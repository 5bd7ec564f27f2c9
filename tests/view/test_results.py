"""Results of joint and superres in the viewer, and their preview pages."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures.slides import tissue_image
from ldm.cli import joint, superres
from ldm.images.pyramid_tiff import halve, write_pyramid
from ldm.view.catalogue import catalogue
from ldm.view.result_page import PREVIEW, write_preview
from tests.view.conftest import pixels_of


def toy_model(world: Path) -> list[str]:
    return ["--model", str(world / "zoomldm")]


@pytest.fixture
def sampled(world: Path, tmp_path: Path) -> Path:
    out = tmp_path / "joint"
    given = ["--from", str(world / "slide.h5"), "--out", str(out), "--size", "128", "--steps", "2"]
    joint.main([*toy_model(world), *given, "--accelerator", "cpu"])
    return out


def test_joint_is_shown_with_its_canvases_and_has_a_preview(sampled: Path) -> None:
    ((entry,), notes) = catalogue([sampled])
    assert notes == []
    assert entry.name == "joint"
    assert [layer.name for layer in entry.layers] == ["image at 20x", "canvas at 5x"]
    told = entry.described()
    assert [layer["levels"][-1] for layer in told["layers"]] == [[128, 128], [32, 32]]
    assert (told["per_pixel"], told["unit"]) == (pytest.approx(0.5), "um")
    page = (sampled / PREVIEW).read_text()
    assert "image at 20x" in page
    assert "canvas at 5x" in page
    assert_is_self_contained(page)


def test_canvases_of_an_earlier_image_do_not_stay(sampled: Path, world: Path) -> None:
    given = ["--from", str(world / "slide.h5"), "--out", str(sampled), "--size", "128", "--steps", "2"]
    joint.main([*toy_model(world), *given, "--accelerator", "cpu", "--scales", "20x,10x"])
    assert [path.name for path in sorted(sampled.glob("canvas_*"))] == ["canvas_10x.tiff"]


def assert_is_self_contained(page: str) -> None:
    assert not re.search(r"<script|<link|<iframe|https?://|url\(|onerror|onload", page)
    sources = re.findall(r'src="([^"]*)"', page)
    assert sources
    for source in sources:
        start, _, content = source.partition(",")
        assert start == "data:image/jpeg;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).verify()


def test_superres_is_shown_with_what_it_was_made_of(world: Path, tmp_path: Path) -> None:
    truth = tissue_image(96, 128)
    Image.fromarray(truth).save(tmp_path / "truth.png")
    Image.fromarray(halve(halve(truth))).save(tmp_path / "small.png")
    out = tmp_path / "out"
    given = [str(tmp_path / "small.png"), "--out", str(out), "--steps", "2", "--condition", "none", "--device", "cpu"]
    superres.main([*toy_model(world), *given, "--truth", str(tmp_path / "truth.png")])
    ((entry,), _) = catalogue([out])
    assert [layer.name for layer in entry.layers] == ["before", "bicubic", "enlarged", "truth"]
    assert entry.described()["main"] == 2
    shown = {layer.name: layer.pyramid.tile(0, 0, 0) for layer in entry.layers}
    assert np.array_equal(shown["before"], halve(halve(truth)))
    assert np.array_equal(shown["truth"], truth)
    assert np.array_equal(shown["enlarged"], pixels_of(out / "small.png"))
    assert_is_self_contained((out / PREVIEW).read_text())
    superres.main([*toy_model(world), *given, "--method", "bicubic"])
    ((entry,), _) = catalogue([out])
    assert [layer.name for layer in entry.layers] == ["before", "enlarged"]


def test_a_preview_escapes_names_and_figures(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "image.tiff", tissue_image(64, 64), 0.5)
    hostile = "<script>alert(1)</script>"
    (tmp_path / "image.json").write_text(json.dumps({hostile: hostile, "settings": {"scales": [hostile]}}))
    page = write_preview(tmp_path).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 3


def test_own_pictures_beside_a_result_are_shown(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "image.tiff", tissue_image(64, 64), 0.5)
    (tmp_path / "image.json").write_text("{}")
    for name in ("picture.png", "image.png", "mine.png"):
        Image.fromarray(tissue_image(16, 16)).save(tmp_path / name)
    assert [entry.name for entry in catalogue([tmp_path])[0]] == [tmp_path.name, "mine.png"]


def test_overlays_are_found_and_records_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    Image.fromarray(tissue_image(16, 16)).save(secret)
    Image.fromarray(tissue_image(32, 32)).save(folder / "a.png")
    (folder / "layers").mkdir()
    Image.fromarray(tissue_image(32, 32)).save(folder / "layers/a.residual.png")
    Image.fromarray(tissue_image(32, 32)).save(folder / "layers/a.spread.png")
    images = [{"image": "../secret.png"}, {"image": str(secret)}, {"image": 7}, {"image": "out/a.png"}, 5]
    (folder / "superres.json").write_text(json.dumps({"images": images}))
    entries, _ = catalogue([folder])
    assert [entry.name for entry in entries] == ["a.png"]
    assert [layer.name for layer in entries[0].overlays] == ["residual", "spread"]
    for name in ("of_an_earlier_command.png", "my_picture.png", "a.spread.png", "a.comparison.png"):
        Image.fromarray(tissue_image(32, 32)).save(folder / name)
    shown = ["a.png", "my_picture.png", "of_an_earlier_command.png"]
    assert [entry.name for entry in catalogue([folder])[0]] == shown
    for name in (*shown[1:], "a.spread.png", "a.comparison.png"):
        (folder / name).unlink()
    (folder / "superres.json").write_text("[" * 10_000)
    assert {entry.name for entry in catalogue([folder])[0]} == {
        *("a.png", "layers/a.residual.png", "layers/a.spread.png")
    }


def test_every_image_has_a_name_of_its_own_and_is_listed_once(tmp_path: Path) -> None:
    for run in ("one/samples", "two/samples"):
        folder = tmp_path / run
        folder.mkdir(parents=True)
        Image.fromarray(tissue_image(16, 16)).save(folder / "image.png")
        (folder / "image.json").write_text("{}")
        Image.fromarray(tissue_image(16, 16)).save(folder.parent / "a.png")
    one, two = tmp_path / "one", tmp_path / "two"

    def names(*paths: Path) -> list[str]:
        return [entry.name for entry in catalogue(list(paths))[0]]

    assert names(one / "samples") == ["samples"]
    assert names(one / "samples", two / "samples") == ["one/samples", "two/samples"]
    assert names(one / "a.png", two / "a.png", one / "samples") == ["one/a.png", "two/a.png", "samples"]
    assert names(one, one / "a.png", two / ".." / "one") == ["a.png", "samples"]
    assert names(one, two) == ["one/a.png", "one/samples", "two/a.png", "two/samples"]
