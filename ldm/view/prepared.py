"""A prepared slide as an image: at each scale the regions that the file holds of it, elsewhere those of the nearest
coarser scale, enlarged, or of a finer one, shrunk; white where there is none.

Its pixels are those of the base plane (`base_mpp`), with the corner of base tile (0, 0) in the upper left.

Shapes: h, w pixels; n regions.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_prep.slides.readers import Box, Pixels
from ldm.data.h5 import SlideFile
from ldm.images.rasters import Place, check_crs
from ldm.scales import Scale
from ldm.view.overlays import COLOURS, TISSUE_NAME, Outline, boxes

CACHED = 256
"""decoded regions that are kept"""
TISSUE = 0.5
"""least share of tissue of what counts as such"""


class PreparedReader:
    """The images of a prepared slide; without them, UserError. `origin_l0`, `source_l0`, `place_l0`: first base tile,
    size and georeference of the source, in its pixels of full resolution."""

    background = (255, 255, 255)
    place: Place | None = None

    def __init__(self, path: Path) -> None:
        self.slide = SlideFile(path)
        rows, cols = self.slide.grid
        self._tile_px = int(self.slide.attrs["tile_px"])
        self._scales = list(self.slide.ladder)
        self._regions = {scale.name: self._index(scale) for scale in self._scales}
        self.size_l0 = cols * self._tile_px, rows * self._tile_px
        self.extent = Box(0, 0, *self.size_l0)
        self.sizes = [
            (max(1, self.size_l0[0] // scale.downsample), max(1, self.size_l0[1] // scale.downsample))
            for scale in self._scales
        ]
        mpp = float(self.slide.attrs["base_mpp"])
        self.mpp: tuple[float, float] | None = (mpp, mpp)
        self.unit = self.slide.ladder.unit
        attrs = self.slide.attrs
        self.origin_l0 = float(attrs.get("origin_x_l0", 0.0)), float(attrs.get("origin_y_l0", 0.0))
        self.source_l0 = int(attrs["width_l0"]), int(attrs["height_l0"])
        self.place_l0 = self._place_l0()
        without = [scale.name for scale in self._scales if not self.slide.has_images(scale.name)]
        lacking = f"prepared without images of {', '.join(without)}: only their outlines are shown"
        self.notes: tuple[str, ...] = (lacking,) if without else ()
        self._decoded = lru_cache(CACHED)(self._decode)

    def _place_l0(self) -> Place | None:
        """Georeference of the source's full resolution; None where it had none. UserError for an unknown crs."""
        crs, transform = (str(self.slide.attrs.get(name, "")) for name in ("crs", "transform"))
        if not transform:
            return None
        check_crs(crs, str(self.slide.path))
        a, b, c, d, e, f = map(float, transform.split())
        return Place(crs, (a, b, c, d, e, f))

    def _index(self, scale: Scale) -> NDArray[np.int32]:
        """(rows, cols): the number of the region at each place of a scale's grid, -1 where there is none."""
        ij = self.slide.ij(scale.name)
        shape = tuple(-(-length // scale.downsample) for length in self.slide.grid)
        index = np.full(np.maximum(shape, ij.max(0) + 1 if len(ij) else 1), -1, np.int32)
        if self.slide.has_images(scale.name):
            index[ij[:, 0], ij[:, 1]] = np.arange(len(ij))
        return index

    def _decode(self, scale: str, row: int) -> Pixels:
        return self.slide.images(scale, [row])[0]

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        """(height, width, 4); UserError for a damaged file."""
        canvas = np.zeros((height, width, 4), np.uint8)
        for scale in reversed(self._scales[level:]):  # coarse ones first, finer ones over them
            self._draw(canvas, scale, level, x_level, y_level, over=True)
        for scale in reversed(self._scales[:level]):
            if canvas[..., 3].all():
                break
            self._draw(canvas, scale, level, x_level, y_level, over=False)
        return canvas

    def _draw(self, canvas: Pixels, scale: Scale, level: int, x_level: int, y_level: int, over: bool) -> None:
        """Draw the regions of `scale` at the resolution of `level`; with `over` also where something is."""
        side = self._tile_px * scale.downsample // self._scales[level].downsample or 1
        index = self._regions[scale.name]
        height, width = canvas.shape[:2]
        rows = range(y_level // side, min(len(index), (y_level + height - 1) // side + 1))
        cols = range(x_level // side, min(index.shape[1], (x_level + width - 1) // side + 1))
        for i in rows:
            for j in cols:
                top, left = i * side - y_level, j * side - x_level
                part = slice(max(0, top), top + side), slice(max(0, left), left + side)
                if index[i, j] < 0 or (not over and canvas[part][..., 3].all()):
                    continue
                seen = self._at_side(scale.name, int(index[i, j]), side)
                seen = seen[max(0, -top) :, max(0, -left) :][: height - max(0, top), : width - max(0, left)]
                free = slice(None) if over else canvas[part][..., 3] == 0
                canvas[part][free] = np.dstack([seen, np.full(seen.shape[:2], 255, np.uint8)])[free]

    def _at_side(self, scale: str, row: int, side: int) -> Pixels:
        """(side, side, 3) of a region, enlarged by repetition or shrunk to means."""
        pixels = self._decoded(scale, row)
        if side == self._tile_px:
            return pixels
        kernel = Image.Resampling.NEAREST if side > self._tile_px else Image.Resampling.BOX
        return np.asarray(Image.fromarray(pixels).resize((side, side), kernel))


def region_outlines(slide: SlideFile) -> list[Outline]:
    """Where there is tissue, and the regions of each scale as squares; in base pixels."""
    tile_px = int(slide.attrs["tile_px"])
    found = [_tissue(slide, tile_px)]
    for scale in slide.ladder:
        side = tile_px * scale.downsample
        corners = slide.ij(scale.name)[:, ::-1] * side  # (n, 2): x, y
        found.append(boxes(f"regions at {scale.name}", corners, side, COLOURS[1 + scale.index % (len(COLOURS) - 1)]))
    return found


def _tissue(slide: SlideFile, tile_px: int) -> Outline:
    """The border of what is tissue by its share in the finest region that holds it, in steps of a base tile."""
    from rasterio.features import shapes

    share = np.zeros(slide.grid, np.float32)
    for scale in reversed(list(slide.ladder)):
        side = scale.downsample
        for (i, j), tissue in zip(slide.ij(scale.name).tolist(), slide.tissue(scale.name).tolist(), strict=True):
            share[i * side : (i + 1) * side, j * side : (j + 1) * side] = tissue
    mask = (share >= TISSUE).astype(np.uint8)
    polygons = [shape["coordinates"] for shape, _ in shapes(mask, mask=mask == 1)]
    paths = [(np.array(ring) * tile_px).ravel().tolist() for rings in polygons for ring in rings]
    return Outline(TISSUE_NAME, COLOURS[0], paths, len(polygons))
