"""The page in Chromium: it shows the file's pixels, moves its panels together, and asks nobody but its own server."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.fixtures.slides import tissue_image
from ldm.errors import UserError
from ldm.images.pyramid_tiff import halve
from ldm.view import openseadragon
from ldm.view.catalogue import catalogue
from ldm.view.export import export
from ldm.view.site import Site
from tests.browser import WIDTH, Open, browser, new_page, until
from tests.view.conftest import HOSTILE, Served, serving

__all__ = ["browser", "new_page"]
READY = "ZoomLDM.group?.panels.every(({viewer}) => viewer.world.getItemAt(0)?.getFullyLoaded())"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """OpenSeadragon itself, unlike in the other tests."""
    try:
        openseadragon.library()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder as superres writes it, with outlines and an overlay."""
    folder = tmp_path / "results"
    (folder / "layers").mkdir(parents=True)
    truth = tissue_image(600, 800)
    for name, image in {"layers/a.input": halve(halve(truth)), "a": truth, "layers/a.truth": truth}.items():
        Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(np.full((600, 800, 3), (255, 0, 0), np.uint8)).save(folder / "layers/a.residual.png")
    (folder / "superres.json").write_text(json.dumps({"images": [{"image": "a.png"}], "settings": {"scales": ["20x"]}}))
    square = {"type": "Polygon", "coordinates": [[[100, 100], [300, 100], [300, 300], [100, 300], [100, 100]]]}
    properties = {"classification": {"name": "<b>Tumor</b>", "color": [0, 0, 255]}}
    feature = {"type": "Feature", "geometry": square, "properties": properties}
    (folder / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    return folder


@pytest.fixture
def opened(new_page: Open) -> Open:
    """Opens an address, and waits until its images are there."""

    def go(address: str) -> Any:
        page = new_page(address)
        until(page, READY)
        return page

    return go


@pytest.fixture
def shown(results: Path) -> Iterator[Served]:
    yield from serving(Site("results", catalogue([results])[0]))


def at(served: Served, **place: object) -> str:
    return f"http://127.0.0.1:{served.port}/#" + "&".join(f"{key}={value}" for key, value in place.items())


def place(page: Any) -> dict[str, float]:
    return page.evaluate("ZoomLDM.group.place")


def settled(page: Any) -> dict[str, float]:
    """The place once nothing moves any more."""
    before: dict[str, float] = {}
    while before != (now := place(page)):
        before = now
        page.wait_for_timeout(500)
    return before


def pixels(page: Any, panel: int) -> np.ndarray:
    """(h, w, 3) that the panel's picture has on the screen, without what is drawn over it."""
    page.add_style_tag(content="h2, .scale-bar, .navigator, #legend { visibility: hidden }")
    section = page.locator(".panel").nth(panel)
    return np.asarray(Image.open(io.BytesIO(section.screenshot())).convert("RGB"))


def test_a_pixel_of_the_screen_is_a_pixel_of_the_file(shown: Served, opened: Open) -> None:
    page = opened(at(shown, x=390.3, y=310.7, zoom=0.9, show=1))
    page.keyboard.press("z")
    page.keyboard.press("o")  # no outlines
    there = settled(page)
    seen = pixels(page, 1)
    left, top = (round(length / 2 - there[axis]) for length, axis in ((seen.shape[1], "x"), (seen.shape[0], "y")))
    truth = tissue_image(600, 800)
    part = seen[max(0, top) :, max(0, left) :]
    inside = truth[max(0, -top) :, max(0, -left) :][: len(part), : part.shape[1]]
    assert min(inside.shape[:2]) > 500
    assert np.array_equal(part[: len(inside), : inside.shape[1]], inside)


def test_panels_move_together(shown: Served, opened: Open) -> None:
    page = opened(at(shown, x=400, y=300, zoom=0.5))
    before = place(page)
    box = page.locator(".panel").nth(2).bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.wheel(0, -400)
    zoomed = settled(page)
    page.mouse.down()
    page.mouse.move(middle[0] - 60, middle[1] - 30, steps=4)
    page.mouse.up()
    moved = settled(page)
    assert zoomed["zoom"] > before["zoom"]
    assert moved["x"] > zoomed["x"]
    assert moved["y"] > zoomed["y"]
    panels = page.evaluate("ZoomLDM.group.panels.map((panel) => panel.place)")
    for each in panels:
        assert {key: pytest.approx(value, rel=1e-6) for key, value in each.items()} == moved


def test_keys_move_zoom_and_choose(shown: Served, opened: Open) -> None:
    page = opened(at(shown, x=400, y=300, zoom=1))
    assert settled(page) == {"x": pytest.approx(400), "y": pytest.approx(300), "zoom": pytest.approx(1)}
    page.keyboard.press("ArrowRight")
    assert settled(page)["x"] > 400
    page.keyboard.press("+")
    assert settled(page)["zoom"] == pytest.approx(1.5)
    page.keyboard.press("z")
    assert settled(page)["zoom"] == pytest.approx(1)
    page.keyboard.press("0")
    assert settled(page)["zoom"] < 1
    visible = "[...document.querySelectorAll('.panel')].map((panel) => !panel.classList.contains('away'))"
    page.keyboard.press("2")
    assert page.evaluate(visible) == [False, True, False]
    page.keyboard.press("2")
    assert page.evaluate(visible) == [True, True, True]
    page.keyboard.press("c")
    assert page.evaluate(visible) == [True, True, False]
    divider = page.locator("#divider").bounding_box()
    page.mouse.move(divider["x"] + 10, divider["y"] + 100)
    page.mouse.down()
    page.mouse.move(divider["x"] - 190, divider["y"] + 100, steps=3)
    page.mouse.up()
    assert page.evaluate("ZoomLDM.group.divider") == pytest.approx(0.5 - 200 / WIDTH, abs=0.01)


def test_an_address_leads_back_to_its_place(shown: Served, opened: Open) -> None:
    page = opened(at(shown))
    page.keyboard.press("+")
    page.keyboard.press("ArrowDown")
    there = settled(page)
    page.wait_for_timeout(300)
    again = opened(page.url)
    assert settled(again) == {key: pytest.approx(value, rel=1e-4) for key, value in there.items()}


@pytest.mark.parametrize(
    "told", ["x=1e300&y=-1e300&zoom=1e300", "x=1e30&zoom=1e-300", "x=NaN&y=&show=7,x&zoom=-1&swipe=1"]
)
def test_an_address_of_a_place_that_cannot_be_leaves_the_page_usable(told: str, shown: Served, opened: Open) -> None:
    page = opened(f"http://127.0.0.1:{shown.port}/#{told}")
    page.wait_for_timeout(300)
    page.keyboard.press("0")
    there = settled(page)
    assert (there["x"], there["y"]) == (pytest.approx(400), pytest.approx(300))
    assert 0.1 < there["zoom"] < 2


def test_the_place_under_the_pointer_is_told_inside_the_image_alone(shown: Served, opened: Open) -> None:
    page = opened(at(shown, x=0, y=0, zoom=1, show=1))
    box = page.locator(".panel").nth(1).bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] + 40.5, middle[1] + 20.5)
    assert page.locator("#place").inner_text() == "x 40  y 20  ·  20.3 µm, 10.3 µm"
    page.mouse.move(middle[0] - 40, middle[1] - 20)
    assert page.locator("#place").inner_text() == ""


def test_the_legend_hides_no_name_of_a_layer(shown: Served, opened: Open) -> None:
    page = opened(at(shown, x=400, y=300, zoom=0.5, swipe=1))
    name, legend = (page.locator(which).bounding_box() for which in (".panel.over h2", "#legend"))
    assert name["y"] + name["height"] <= legend["y"]


def test_lengths_outlines_and_overlays_are_drawn(shown: Served, opened: Open) -> None:
    page = opened(at(shown, x=400, y=300, zoom=1, show=1))
    assert page.locator(".scale-bar").nth(1).inner_text() == "50 µm"  # 100 px of 0.5 um
    assert page.locator(".scale-bar").nth(1).bounding_box()["width"] == pytest.approx(100, abs=1)
    assert "<b>Tumor</b>" in page.locator("#legend").inner_text()
    page.wait_for_timeout(300)
    blue = (pixels(page, 1) == (0, 0, 255)).all(-1)
    assert blue.sum() > 600
    page.keyboard.press("o")
    page.wait_for_timeout(300)
    assert not (pixels(page, 1) == (0, 0, 255)).all(-1).any()
    page.keyboard.press("o")
    page.evaluate("ZoomLDM.group.setOverlay(0, { shown: true, opacity: 1 })")
    until(page, "ZoomLDM.group.overlays[0].item?.getFullyLoaded()")
    page.wait_for_timeout(500)
    assert (pixels(page, 1) == (255, 0, 0)).all(-1).mean() > 0.3


def test_names_of_files_are_text(pictures: Path, opened: Open) -> None:
    for served in serving(Site("pictures", catalogue([pictures])[0])):
        names = [entry.name for entry in served.site.entries]
        page = opened(at(served, image=names[0]))
        assert page.locator("#list span").all_inner_texts() == names
        page.locator("#list button", has_text=HOSTILE).click()
        until(page, f"document.title === {json.dumps(HOSTILE)}")
        assert page.locator("h1").inner_text() == HOSTILE
        page.evaluate("location.hash = 'image=prepared.h5'")
        until(page, "document.querySelectorAll('#legend label').length === 4")
        page.evaluate("location.hash = 'image=damaged.png'")
        until(page, "document.getElementById('message').textContent.includes('cannot be read')")


def test_an_exported_page_opens_from_disk(results: Path, tmp_path: Path, opened: Open) -> None:
    index = export(Site("results", catalogue([results])[0]), tmp_path / "page")
    shutil.move(results, tmp_path / "elsewhere")
    page = opened(f"{index.as_uri()}#x=400&y=300&zoom=1&show=1")
    assert settled(page) == {"x": pytest.approx(400), "y": pytest.approx(300), "zoom": pytest.approx(1)}
    page.wait_for_timeout(300)
    assert (pixels(page, 1) == (0, 0, 255)).all(-1).sum() > 600
