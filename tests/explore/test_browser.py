"""The page in Chromium: it shows the world's pixels, moves and zooms, and asks nobody but its own server."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser import Open, browser, new_page, until
from tests.endless.test_world import quick
from tests.explore.test_server import Served, served

__all__ = ["browser", "new_page", "quick", "served"]

pytestmark = pytest.mark.slow
DONE = "document.getElementById('work').textContent === '' && document.getElementById('place').textContent !== ''"


def settled(page: Any) -> np.ndarray:
    """(h, w, 3) what the plane shows once all its tiles are there and have faded in."""
    until(page, DONE)
    page.wait_for_timeout(800)
    page.add_style_tag(content=".scale-bar, #message { visibility: hidden }")
    return np.asarray(Image.open(io.BytesIO(page.locator("#plane").screenshot())).convert("RGB"))


def shows(seen: np.ndarray, image: np.ndarray, zoom: int) -> bool:
    """Whether the middle of the screen is the middle of `image`, each pixel enlarged `zoom` times."""
    truth = image.repeat(zoom, 0).repeat(zoom, 1)
    top, left = ((seen.shape[axis] - truth.shape[axis]) // 2 for axis in (0, 1))
    return np.array_equal(seen[top:, left:][: len(truth), : truth.shape[1]], truth)


def test_the_page_shows_the_world_moves_and_zooms(served: Served, new_page: Open) -> None:
    there = f"http://127.0.0.1:{served.port}/#x=-32&y=-32&zoom=8"  # the closest that it goes
    page = new_page(there, width=420, height=330)
    assert shows(settled(page), served.world["20x", -40:-24, -40:-24], 8)
    assert page.title() == "plain <model>"
    assert page.locator("#magnification").inner_text() == "800 % of 20x"
    page.keyboard.press("ArrowRight")
    until(page, "location.hash !== '' && !location.hash.includes('x=-32&')")
    assert not shows(settled(page), served.world["20x", -40:-24, -40:-24], 8)
    page.evaluate("location.hash = 'x=-32&y=-32&zoom=8'")
    assert shows(settled(page), served.world["20x", -40:-24, -40:-24], 8)
    page.mouse.move(210, 200)
    page.mouse.wheel(0, 60)
    until(page, "!document.getElementById('magnification').textContent.includes('800 %')")
    settled(page)


def test_enlarging_shows_no_borders_of_tiles(served: Served, new_page: Open) -> None:
    page = new_page(f"http://127.0.0.1:{served.port}/#x=0&y=0&zoom=2", width=420, height=330)
    seen = settled(page).astype(float)
    px = served.world.chunk_px["20x"]
    image = served.world["20x", -px:px, -px:px]

    def enlarged(part: np.ndarray) -> np.ndarray:
        return np.asarray(
            Image.fromarray(part).resize((2 * part.shape[1], 2 * part.shape[0]), Image.Resampling.BICUBIC)
        )

    at_once, by_tile = enlarged(image), np.hstack([enlarged(image[:, :px]), enlarged(image[:, px:])])
    top, left = ((seen.shape[axis] - 4 * px) // 2 for axis in (0, 1))
    border = seen[top:, left:][20 : 4 * px - 20, 2 * px - 1 : 2 * px + 1]  # left and right of it, corners aside
    far_from = [np.abs(border - each[20:-20, 2 * px - 1 : 2 * px + 1]).mean() for each in (at_once, by_tile)]
    assert far_from[0] < 0.5 * far_from[1]


def test_an_address_of_a_place_that_cannot_be_leaves_the_page_usable(served: Served, new_page: Open) -> None:
    page = new_page(f"http://127.0.0.1:{served.port}/#x=32&y=32&zoom=8", width=420, height=330)
    settled(page)
    page.evaluate("setTimeout(() => (location.hash = 'x=1e30&y=-1e300&zoom=1e99'))")
    page.wait_for_timeout(500)
    page.evaluate("location.hash = 'x=-32&y=-32&zoom=8'")
    assert shows(settled(page), served.world["20x", -40:-24, -40:-24], 8)
