"""What `zoomldm joint --layout` adds: layout and palette in, labels out."""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ldm.errors import UserError
from ldm.images.class_maps import drawn, read_class_raster
from ldm.images.contact_sheet import INK, PAPER, Pixels
from ldm.images.geojson import ClassRegion, ClassRegions, in_coordinates, read_regions
from ldm.images.geojson_writer import write_regions
from ldm.multiscale.conditions import place_of
from ldm.multiscale.layout import ClassLayout, fitted
from ldm.multiscale.palette import Palette, check_palette, load_palette
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED
from ldm.support.cache import content
from ldm.support.files import atomic_write, write_text

RASTERS = {".png", ".tif", ".tiff"}
FILES = REGIONS, LABELS, LEGEND = "image.geojson", "labels.png", "labels.csv"
"""in --out"""


class Painting(NamedTuple):
    """A layout, and the palette to paint it with."""

    layout: ClassLayout
    palette: Palette
    path: Path
    """of the palette"""
    tile_px: int
    """side of a base tile in the image"""


def read_layout_file(path: Path) -> ClassRegions:
    """GeoJSON, or a class raster with its legend. UserError for anything else."""
    return read_class_raster(path) if path.suffix.lower() in RASTERS else read_regions(path)


def layout_contents(path: Path) -> dict[str, str]:
    """Hashes of all that a layout is read from: the legend of a class raster lies beside it."""
    legend = {"legend": content(path.with_suffix(".csv"))} if path.suffix.lower() in RASTERS else {}
    return {"layout": content(path), **legend}


def layout_of(args: argparse.Namespace) -> ClassRegions | None:
    """The regions of --layout; None without. UserError as `read_layout_file`."""
    return None if args.layout is None else read_layout_file(args.layout)


def painting_of(args: argparse.Namespace, regions: ClassRegions | None, model: ZoomLDM, scale: str) -> Painting | None:
    """The `regions` of --layout and what the options beside it say, for an image at `scale`; None without --layout."""
    if regions is None:
        return None
    bundled = BUNDLED.get(args.model)
    path = args.palette or (bundled.palette if bundled else None)
    if path is None:
        raise UserError(f"--palette: missing; make one of slides prepared for {args.model}: zoomldm palette --help")
    palette = load_palette(path)
    check_palette(palette, path, model.encoder, model.tile_px, model.ladder.kind)
    tile_px = model.tile_px // model.ladder[scale].downsample
    row, col = place_of(args.place) if args.place else (0, 0)
    corner = (col * tile_px, row * tile_px)
    um, options = model.ladder.um(scale), {"mpp": args.mpp, "size": args.pixels, "rest": args.rest}
    layout = fitted(regions, palette, um=um, corner=corner, **options)
    for note in (*layout.notes, *small(layout, tile_px)):
        print(f"{args.layout}: {note}", file=sys.stderr)
    return Painting(layout, palette, path, tile_px)


def small(layout: ClassLayout, tile_px: int) -> list[str]:
    """A note about regions that conditions of one embedding a tile cannot show."""
    count = sum(region.geometry.area < tile_px**2 / 2 for region in layout.regions)
    what = f"{count} of {len(layout.regions)} regions are smaller than half a base tile of {tile_px} px"
    return [f"{what}, and will hardly show"] if count else []


def picture(layout: ClassLayout, palette: Palette, longest: int) -> Pixels:
    """The layout (h, w, 3) in its colours, at most `longest` pixels a side."""
    cell = max(1.0, max(layout.height, layout.width) / longest)
    legend, classes = labels(layout, palette, cell)
    colours = np.array([legend.get(value, ("", (255, 255, 255)))[1] for value in range(max(legend) + 1)], np.uint8)
    return colours[classes]


def legend_picture(layout: ClassLayout, palette: Palette, side_px: int) -> Pixels:
    """The names of the layout's classes beside their colours, from top to bottom: a white square (side, side, 3)."""
    legend, classes = labels(layout, palette, max(1.0, max(layout.height, layout.width) / side_px))
    present = [legend[value] for value in np.unique(classes).tolist() if value in legend]
    row_px = min(side_px / 8, side_px / max(1, len(present)))
    longest = max((ImageFont.load_default(100).getlength(name) for name, _ in present), default=1.0)
    font = ImageFont.load_default(max(1.0, min(0.6 * row_px, 100 * (side_px - 1.5 * row_px) / longest)))
    sheet = Image.new("RGB", (side_px, side_px), PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, (name, colour) in enumerate(present):
        top = row * row_px
        draw.rectangle((1, top + 0.15 * row_px, 0.7 * row_px, top + 0.85 * row_px), colour, INK)
        draw.text((row_px, top + row_px / 2), name, INK, font, anchor="lm")
    return np.asarray(sheet)


def labels(
    layout: ClassLayout, palette: Palette, cell: float = 1.0
) -> tuple[dict[int, tuple[str, tuple[int, int, int]]], np.ndarray]:
    """Legend, and class map (h, w) of the image in cells of `cell` pixels: class k of the palette is k + 1."""
    shape = tuple(max(1, int(length / cell)) for length in (layout.height, layout.width))
    regions = [(region.geometry, palette.index(region.name) + 1) for region in layout.regions]
    rest = palette.index(layout.rest) + 1 if layout.rest else 0
    chosen = {palette.index(r.name): r.colour or (0, 0, 0) for r in layout.regions}
    legend = {
        k + 1: (name, chosen.get(k, colour))
        for k, (name, colour) in enumerate(zip(palette.names, palette.colours, strict=True))
    }
    return legend, drawn(regions, (shape[0], shape[1]), cell, rest)


def write_labels(out: Path, painting: Painting | None, largest_px: int) -> None:
    """Write the regions as GeoJSON and, up to `largest_px` a side, the class raster.

    GeoJSON is in pixels of the image or, of a georeferenced one, in its crs.
    """
    if painting is None:
        return
    layout = painting.layout
    regions: list[ClassRegion] = layout.regions
    if layout.place is not None:
        regions = in_coordinates(regions, layout.place)
    write_regions(out / REGIONS, regions, layout.place.crs if layout.place else "")
    if max(layout.height, layout.width) > largest_px:
        return
    legend, classes = labels(layout, painting.palette)
    image = Image.fromarray(classes)  # 16 bits a cell, without colours
    if max(legend) < 256:
        image = Image.fromarray(classes.astype(np.uint8), mode="P")
        image.putpalette([x for value in range(max(legend) + 1) for x in legend.get(value, ("", (0, 0, 0)))[1]])
    with atomic_write(out / LABELS) as partial:
        image.save(partial, format="PNG")
    quoted = {value: name.replace('"', '""') for value, (name, _) in legend.items()}
    lines = [f'{value},"{quoted[value]}",#{bytes(colour).hex()}' for value, (_, colour) in legend.items()]
    write_text(out / LEGEND, "\n".join(["value,class,colour", *lines]) + "\n")
