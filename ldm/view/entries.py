"""What the page shows of one file or result: layers side by side, layers on top of each, and outlines.

All layers of an entry show the same area, whatever their sizes in pixels; positions are pixels of its main one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ldm.errors import UserError, one_line
from ldm.view.deep_zoom import OVERLAP_PX, TILE_PX, Pyramid
from ldm.view.image_readers import open_shown
from ldm.view.overlays import Outline

PLAUSIBLE_UM, METRES_UM = (0.01, 100.0), 1e5
"""um per pixel of a histology file, and the least of a scene; a tag of 72 dpi, which means nothing, is 352.8"""


@dataclass
class Layer:
    """An image of an entry, opened when it is needed."""

    name: str
    path: Path
    about: str = ""

    @cached_property
    def pyramid(self) -> Pyramid:
        """UserError where the file cannot be shown."""
        return Pyramid(self.path, lambda: open_shown(self.path))

    def close(self) -> None:
        """Let go of the file; it is opened again when it is needed."""
        self.__dict__.pop("pyramid", None)

    def described(self) -> dict[str, Any]:
        """Name and geometry, for the page."""
        levels = [list(size) for size in self.pyramid.levels]
        notes = "; ".join(filter(None, [self.about, *self.pyramid.reader.notes]))
        return {"name": self.name, "about": notes, "levels": levels, "tile": TILE_PX, "overlap": OVERLAP_PX}


@dataclass
class Entry:
    """One item of the page's list."""

    name: str
    layers: list[Layer]
    overlays: list[Layer] = field(default_factory=list)
    outlines: Callable[["Entry"], list[Outline]] = lambda entry: []
    """in pixels of the main layer"""
    about: str = ""
    main: int = 0
    """number of the layer whose pixels are the units of positions"""
    stated: tuple[float, str] | None = None
    """length and unit of a pixel of the main layer, where its file does not say it"""

    @property
    def pyramid(self) -> Pyramid:
        """Of the main layer."""
        return self.layers[self.main].pyramid

    def all_layers(self) -> list[Layer]:
        """In the order of their numbers in addresses."""
        return [*self.layers, *self.overlays]

    def described(self) -> dict[str, Any]:
        """Everything that the page needs to know before it asks for tiles. UserError for a file it cannot show.

        Outlines that cannot be read are told in `trouble`, beside the image.
        """
        trouble, outlines = "", []
        try:
            outlines = self.outlines(self)
        except UserError as error:
            trouble = one_line(str(error))
        return {
            "name": self.name,
            "about": self.about,
            "trouble": trouble,
            **resolution(self.pyramid, self.stated),
            "main": self.main,
            "layers": [layer.described() for layer in self.layers],
            "overlays": [layer.described() for layer in self.overlays],
            "outlines": [_without_paths(each) for each in outlines],
        }


def _without_paths(outline: Outline) -> dict[str, Any]:
    return {key: getattr(outline, key) for key in ("name", "colour", "count", "shown")}


def resolution(pyramid: Pyramid, stated: tuple[float, str] | None = None) -> dict[str, Any]:
    """{"per_pixel": 0.5, "unit": "um"}, or "m", or "px" where neither the file nor `stated` gives a pixel's length."""
    mpp = pyramid.reader.mpp
    length = 0.0 if mpp is None else (mpp[0] * mpp[1]) ** 0.5
    if length and getattr(pyramid.reader, "unit", "um") == "m":
        return {"per_pixel": length, "unit": "m"}
    if length >= METRES_UM:
        return {"per_pixel": length / 1e6, "unit": "m"}
    low, high = PLAUSIBLE_UM
    if low <= length <= high:
        return {"per_pixel": length, "unit": "um"}
    return dict(zip(("per_pixel", "unit"), stated or (1.0, "px"), strict=True))
