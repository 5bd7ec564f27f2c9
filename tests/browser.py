"""Chromium for tests of pages: nothing may be wrong on them, and nothing is asked but from 127.0.0.1 or the disk."""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1000, 700
Open = Callable[..., Any]
"""an address, and the size of the window if need be -> a new page there"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


def until(page: Any, condition: str) -> None:
    """Wait for `condition`, an expression; Playwright's own way is what the page's Content-Security-Policy forbids."""
    for _ in range(600):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(200)
    raise AssertionError(f"never {condition}")


@pytest.fixture
def new_page(browser: Any) -> Iterator[Open]:
    """Opens an address in a new page; afterwards nothing was wrong on it, and nothing was asked from elsewhere."""
    wrong: list[str] = []
    asked: list[str] = []
    context = browser.new_context()

    def go(address: str, width: int = WIDTH, height: int = HEIGHT) -> Any:
        page = context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address, timeout=120_000)
        return page

    yield go
    context.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith(("http://127.0.0.1:", "file:///", "data:"))] == []
