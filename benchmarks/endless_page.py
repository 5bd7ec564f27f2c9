"""The page of an endless slide as a browser asks for it: from the start of the command to the tiles of a screen.

Tiles are asked for over HTTP in the page's order, as many at a time as it asks. CPU seconds are those of the command's
process (Linux), with its start; the clock is that of who waits.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, floor, hypot
from pathlib import Path
from typing import Any
from urllib.request import urlopen

SCREEN = (1000, 560)
"""width and height of the window, in pixels"""
AT_ONCE = 4
"""tiles that the page asks for at a time"""
LARGEST = 2
"""screen pixels of a tile's pixel above which the page shows the next finer layer"""
Layer = dict[str, Any]


@dataclass(frozen=True)
class View:
    """The middle of the window in pixels of the finest scale, and the downsample of the scale that fills it, enlarged
    `zoom` times."""

    x: float
    y: float
    downsample: int
    zoom: float = 1.0

    def tiles(self, layer: Layer) -> list[str]:
        """Addresses of a layer's tiles that it shows, nearest to the middle first."""
        side, start = (layer[name] * layer["downsample"] for name in ("px", "offset"))
        width, height = (length / 2 * self.downsample / self.zoom for length in SCREEN)

        def numbers(middle: float, half: float) -> range:
            return range(floor((middle - half - start) / side), ceil((middle + half - start) / side))

        found = {
            f"{layer['address']}/{row}_{col}.png": hypot(
                start + (col + 0.5) * side - self.x, start + (row + 0.5) * side - self.y
            )
            for row in numbers(self.y, height)
            for col in numbers(self.x, width)
        }
        return sorted(found, key=found.__getitem__)

    def layers(self, world: dict[str, Any]) -> list[Layer]:
        """The layers that it shows, coarsest first; the early pictures come before them."""
        own = world["layers"][1:]
        fine = [layer for layer in own if layer["downsample"] / self.downsample * self.zoom <= LARGEST]
        return own[: len(own) - len(fine) + 1]


@dataclass
class Page:
    """A running command, and what a browser does with it."""

    address: str
    process: int
    begun: float

    def __post_init__(self) -> None:
        self.world = json.loads(self.get("world.json"))

    def get(self, path: str) -> bytes:
        with urlopen(self.address + path, timeout=600) as answer:
            return bytes(answer.read())

    def used(self) -> tuple[float, float]:
        """Seconds of processor and of clock since the command was begun."""
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK"), time.monotonic() - self.begun

    def first(self, view: View) -> None:
        """Wait for the first picture of a view, with which the page begins."""
        self.get(view.tiles(self.world["layers"][0])[0])

    def screen(self, view: View) -> int:
        """Wait for everything that a view shows; how many tiles its finest layer has."""
        tiles = [view.tiles(layer) for layer in view.layers(self.world)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(self.get, sum(tiles, view.tiles(self.world["layers"][0]))))
        return len(tiles[-1])


@contextmanager
def opened(options: Sequence[str]) -> Iterator[Page]:
    """The page of `zoomldm explore` with these options, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "ldm.cli.zoomldm", "explore", *options],
            env={**os.environ, "XDG_CACHE_HOME": cache},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield Page(process.stdout.readline().split()[0].rstrip("/") + "/", process.pid, begun)
        finally:
            process.terminate()
            process.wait()


def timed(options: Sequence[str], at: tuple[int, int]) -> Iterator[str]:
    """Lines of a table: what the first picture takes, at the start and at another place, and whole screens at places
    that were never visited, one found by zooming in from the coarsest scale and one that an address names."""

    def line(what: str, before: tuple[float, float], after: tuple[float, float]) -> str:
        return f"| {what} | {after[0] - before[0]:.1f} | {after[1] - before[1]:.1f} |"

    with opened(options) as page:
        ready = page.used()
        coarsest = page.world["layers"][0]
        yield line("from the command to its address", (0.0, 0.0), ready)
        page.first(View(0, 0, coarsest["downsample"], LARGEST))
        yield line("the first picture at the start", ready, page.used())
    x, y = at
    with opened(options) as page:
        deep = View(x, y, page.world["layers"][-1]["downsample"])
        before = page.used()
        page.first(deep)
        yield line("the first picture at another address", before, page.used())
        count = page.screen(deep)
        yield line(f"everything at this address, {count} tiles of the finest scale", before, page.used())
        for layer in page.world["layers"][1:]:
            zoom = LARGEST if layer is page.world["layers"][1] else 1
            before = page.used()
            count = page.screen(View(-x, -y, layer["downsample"], zoom))
            yield line(f"elsewhere, zooming in: {layer['name']}, {count} tiles", before, page.used())
