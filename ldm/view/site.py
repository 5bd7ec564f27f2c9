"""The page and its data, as files by their addresses; the server computes them when asked, the export writes them all.

    index.html  view.css  *.js                       the page
    data.js                                          the list of entries
    entries/E.js                                     what entry E shows
    outlines/E.js                                    its outlines
    thumbnails/E.png
    tiles/E/L/LEVEL/COL_ROW.png                      of layer L of entry E

Data are scripts that call a function of the page, since a page opened from disk may load scripts but not JSON.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from html import escape
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from ldm.errors import UserError, one_line
from ldm.view.deep_zoom import Pyramid, png
from ldm.view.entries import Entry, Layer
from ldm.view.openseadragon import library

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("geometry.js", "scale_bar.js", "outlines.js", "panels.js", "view.js")
"""in the order in which the page loads them"""
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".png": "image/png", ".txt": "text/plain"}
THUMBNAIL_PX = 192
NOTHING = 160
"""grey of the thumbnail of what cannot be shown; the page says why when it is opened"""
OPEN = 12
"""files that stay open at a time"""


class Site:
    """The content of the page for some entries."""

    def __init__(self, title: str, entries: Sequence[Entry]) -> None:
        """UserError where OpenSeadragon is not to be had."""
        self.title, self.entries = title, list(entries)
        self._open: OrderedDict[int, Layer] = OrderedDict()
        self._lock = Lock()
        self.files = {**library(), **{name: (PAGE / name).read_bytes() for name in ("view.css", *SCRIPTS)}}
        self.files["index.html"] = self._page().encode()
        self.files["data.js"] = self._data().encode()

    def _page(self) -> str:
        scripts = [name for name in self.files if name.endswith(".js") and name not in SCRIPTS]
        tags = "\n".join(f'<script src="{name}"></script>' for name in [*scripts, *SCRIPTS, "data.js"])
        page = (PAGE / "index.html").read_text(encoding="utf-8")
        return page.replace("{scripts}", tags).replace("{title}", escape(one_line(self.title)))

    def _data(self) -> str:
        entries = [{"name": entry.name, "about": entry.about} for entry in self.entries]
        return _call("start", {"title": self.title, "entries": entries})

    def entry(self, number: int) -> str:
        """The description of an entry or, where its file cannot be shown, the reason. IndexError for no entry."""
        entry = self._entry(number)
        try:
            self._keep(*entry.all_layers())
            return _call("entry", number, entry.described())
        except (UserError, OSError) as error:
            return _call("entry", number, {"name": entry.name, "error": one_line(str(error))})

    def outlines(self, number: int) -> str:
        """The paths of every class of outlines of an entry. IndexError for no entry, UserError for a damaged file."""
        entry = self._entry(number)
        return _call("outlines", number, [each.paths for each in entry.outlines(entry)])

    def tile(self, number: int, layer: int, level: int, col: int, row: int) -> bytes:
        """A PNG. IndexError where there is no such tile, UserError for damage."""
        return png(self._pyramid(number, layer).tile(level, col, row))

    def thumbnail(self, number: int) -> bytes:
        """A PNG of the main layer, at most THUMBNAIL_PX a side. IndexError for no entry, UserError for damage."""
        try:
            pixels = self._pyramid(number, self._entry(number).main).tile(0, 0, 0)
        except (UserError, OSError):
            pixels = np.full((1, 1, 3), NOTHING, np.uint8)
        picture = Image.fromarray(pixels)
        picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.BOX)
        return png(np.asarray(picture))

    def _entry(self, number: int) -> Entry:
        if not 0 <= number < len(self.entries):
            raise IndexError(f"entry {number}")
        return self.entries[number]

    def _pyramid(self, number: int, layer: int) -> Pyramid:
        layers = self._entry(number).all_layers()
        if not 0 <= layer < len(layers):
            raise IndexError(f"layer {layer}")
        self._keep(layers[layer])
        return layers[layer].pyramid

    def _keep(self, *layers: Layer) -> None:
        """Note that `layers` are in use, and close those that were not for longest."""
        with self._lock:
            for layer in layers:
                self._open[id(layer)] = layer
                self._open.move_to_end(id(layer))
            while len(self._open) > max(OPEN, len(layers)):
                self._open.popitem(last=False)[1].close()


def _call(function: str, *arguments: Any) -> str:
    """A script of one call, in ASCII."""
    texts = (json.dumps(argument, allow_nan=False, separators=(",", ":")) for argument in arguments)
    return f"ZoomLDM.{function}({','.join(texts)});\n"
