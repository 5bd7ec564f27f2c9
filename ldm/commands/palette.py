"""Make a palette of prepared slides, and a picture of it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray
from tqdm import tqdm

from data_prep.preparation_config import load_prepare_config
from data_prep.prepare import main as prepare
from ldm.commands.paint import RASTERS, read_layout_file
from ldm.data.cohort import open_cohort
from ldm.data.h5 import SlideFile
from ldm.errors import UserError, when_stopped
from ldm.images.class_maps import class_shares, drawn
from ldm.images.contact_sheet import Pixels, contact_sheet
from ldm.images.geojson import ClassRegion, ClassRegions, Colour, in_pixels, is_kept
from ldm.images.rasters import Place
from ldm.multiscale.layout import CELLS
from ldm.multiscale.palette import BACKGROUND, Palette, save_palette
from ldm.multiscale.prototypes import (
    MAJORITY,
    LabelledSlide,
    clusters,
    colours_for,
    embeddings_of,
    make_palette,
    standardised,
    with_background,
)
from ldm.support.files import sidecar, staged

DEMO = "configs/demo/data.yaml"
SUFFIXES = (".geojson", ".json", *sorted(RASTERS))
SHOWN = 8
"""tiles of each class in the picture"""
SHAPE_TOLERANCE = 0.02
"""share by which the shape of a class raster may differ from its slide's"""


@when_stopped("the same command begins again; slides that were prepared are kept")
def run(args: argparse.Namespace) -> None:
    if args.cohort is None:
        demo(args)
    files = open_cohort(args.cohort)
    if args.clusters is not None:
        slides, names = clusters(files, args.clusters, args.seed)
        colours: list[Colour | None] = [None] * len(names)
    else:
        slides, names, colours = annotated(files, args.annotations)
    if BACKGROUND.casefold() not in [name.casefold() for name in names]:
        slides, names, colours = [with_background(slide) for slide in slides], [*names, BACKGROUND], [*colours, None]
    palette = make_palette(slides, names, colours_for(names, colours), args.prototypes, args.seed)
    picture = args.out.with_suffix(".png").name
    with staged(args.out.parent, [picture, sidecar(args.out).name, args.out.name]) as stage:
        save_palette(stage / args.out.name, palette)
        drawn_too = draw(palette, slides, names, stage / picture) is not None
    print(table(palette))
    if missing := [name for name in names if name not in palette.names and name != BACKGROUND]:
        print(f"left out, for no tile is half of it: {', '.join(missing)}")
    print(args.out)
    if drawn_too:
        print(args.out.with_suffix(".png"))


def demo(args: argparse.Namespace) -> None:
    """Draw and prepare the demo slides, and fill in the arguments that name them; their maps lie beside them."""
    config = load_prepare_config([DEMO])
    if config.generate is not None:
        print(f"without --cohort: {config.generate.count} demo slides are drawn and prepared first, once", flush=True)
    if status := prepare(["--config", DEMO]):
        raise SystemExit(status)  # the command has printed why
    args.cohort, args.annotations = Path(config.out), Path(config.slides)


def annotated(files: Sequence[SlideFile], folder: Path) -> tuple[list[LabelledSlide], list[str], list[Colour | None]]:
    """The slides that `folder` has annotations of, and names and colours of their classes, in alphabetical order.

    UserError when there are none.
    """
    found = [(file, path) for file in files if (path := annotation_of(file, folder, files))]
    if not found:
        raise UserError(
            f"--annotations: {folder} has no {files[0].attrs['slide_id']}.geojson or the like; expected slides' names, "
            "ending with .geojson, .png or .tif"
        )
    if len(found) < len(files):
        print(f"{len(files) - len(found)} of {len(files)} slides have no annotation in {folder} and are left out")
    bar = tqdm(found, desc="annotations", unit="slide")
    of = [(file, on_slide(file, noted(read_layout_file(path), path), path)) for file, path in bar]
    colours: dict[str, Colour | None] = {}
    for (_, path), (_, regions) in zip(found, of, strict=True):
        for region in regions:
            if is_kept(region.name):
                raise UserError(
                    f"--annotations: {path}: holds the tissue and {region.name}, as prepare writes them; expected "
                    "classes drawn by hand: give the folder that they are in"
                )
            if region.name and not region.name.endswith("*"):
                colours[region.name] = colours.get(region.name) or region.colour
    names = sorted(colours)
    if not names:
        raise UserError(f"--annotations: {found[0][1]}: no region has a class; in QuPath: select them, and Set class")
    return [labelled(file, regions, names) for file, regions in of], names, [colours[name] for name in names]


def noted(found: ClassRegions, path: Path) -> ClassRegions:
    """`found`, after telling what of `path` was left out or read otherwise."""
    for note in found.notes:
        tqdm.write(f"{path}: {note}", file=sys.stderr)
    return found


def annotation_of(file: SlideFile, folder: Path, files: Sequence[SlideFile]) -> Path | None:
    """The annotation of a slide: by its id or, if no other of `files` has it, by the name of its file.

    UserError where there are two, or it could be of several slides.
    """
    own, stem = str(file.attrs["slide_id"]), source_name(file)
    ids = [str(each.attrs["slide_id"]) for each in files if source_name(each) == stem]
    found = annotations_named([own], folder) if len(ids) > 1 else annotations_named([own, stem], folder)
    if len(ids) > 1 and not found and stem not in ids and (unclear := annotations_named([stem], folder)):
        raise UserError(
            f"--annotations: {unclear[0]} could be of {' or '.join(ids)}; name it {own}{unclear[0].suffix}, or so"
        )
    if len(found) > 1:
        raise UserError(f"--annotations: {found[0]} and {found[1]} are of one slide; leave one")
    return found[0] if found else None


def source_name(file: SlideFile) -> str:
    return Path(str(file.attrs["source"])).stem


def annotations_named(names: Sequence[str], folder: Path) -> list[Path]:
    """Annotations with one of `names`; a picture without a legend is none."""
    names = list(dict.fromkeys(names))
    found = [path for name in names for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    return [path for path in found if path.suffix not in RASTERS or path.with_suffix(".csv").is_file()]


def on_slide(file: SlideFile, found: ClassRegions, path: Path) -> list[ClassRegion]:
    """Annotations in pixels of full resolution: they have those, or coordinates of the slide's crs, or are a raster of
    all of it. UserError for one that does not fit the slide.
    """
    width, height = int(file.attrs["width_l0"]), int(file.attrs["height_l0"])
    regions = found.regions
    if found.crs:
        regions = in_pixels(regions, place_of_slide(file, found.crs, path))
    elif found.frame:
        across, down = width / found.frame[2], height / found.frame[3]
        if abs(across / down - 1) > SHAPE_TOLERANCE:
            size = f"{found.frame[2]:.0f}x{found.frame[3]:.0f}"
            raise UserError(f"{path}: is {size}, but its slide is {width}x{height}; expected a raster of all of it")
        scale = np.array([across, down])
        regions = [r._replace(geometry=shapely.transform(r.geometry, lambda xy: xy * scale)) for r in regions]
    inside = shapely.box(0, 0, width, height)
    if not any(region.geometry.intersects(inside) for region in regions):
        raise UserError(
            f"{path}: all regions lie outside its slide of {width}x{height} px; expected coordinates in pixels of full "
            "resolution, as QuPath exports them"
        )
    return regions


def place_of_slide(file: SlideFile, crs: str, path: Path) -> Place:
    """Georeference of a slide's full resolution. UserError where it has none, or another crs than `crs`."""
    from rasterio.crs import CRS

    own = str(file.attrs.get("crs", ""))
    if not own or CRS.from_wkt(own) != CRS.from_user_input(crs):
        found = CRS.from_wkt(own).to_string()[:60] if own else "pixels"
        raise UserError(f"{path}: is in the crs {crs[:60]}, but its slide in {found}; reproject it to the slide's")
    a, b, c, d, e, f = map(float, str(file.attrs["transform"]).split())
    return Place(own, (a, b, c, d, e, f))


def labelled(file: SlideFile, regions: Sequence[ClassRegion], names: Sequence[str]) -> LabelledSlide:
    """A slide with the shares of `names` in its base tiles; `regions` in pixels of full resolution."""
    origin = np.array([file.attrs.get("origin_x_l0", 0.0), file.attrs.get("origin_y_l0", 0.0)])
    tile_l0 = file.attrs["tile_px"] * file.base_l0
    rows, cols = file.grid

    def in_tiles(xy: NDArray[np.float64]) -> NDArray[np.float64]:
        return (xy - origin) / tile_l0

    placed = [
        (shapely.transform(region.geometry, in_tiles), names.index(region.name))
        for region in regions
        if region.name in names
    ]
    classes = drawn(placed, (rows * CELLS, cols * CELLS), 1 / CELLS, len(names))
    return LabelledSlide(file, class_shares(classes, len(names), CELLS))


def table(palette: Palette) -> str:
    """One line per class: tiles, prototypes, slides."""
    width = max(map(len, palette.names))
    lines = [f"{'class':{width}}  tiles  prototypes  slides"]
    for k, name in enumerate(palette.names):
        mine = palette.classes == k
        count = len(set(palette.sources[mine].tolist()))
        lines.append(f"{name:{width}}  {palette.counts[k]:5}  {mine.sum():10}  {count:6}")
    return "\n".join(lines)


def draw(palette: Palette, slides: Sequence[LabelledSlide], names: Sequence[str], path: Path) -> Path | None:
    """A picture of each class: the real tiles nearest to its prototypes, of slides prepared with images; None without
    any."""
    rows = [nearest(palette, k, slides, names) for k in range(len(palette.names))]
    kept = [(name, tiles) for name, tiles in zip(palette.names, rows, strict=True) if tiles]
    if not kept:
        return None
    blank = np.full_like(kept[0][1][0], 255)
    sheet = [[*tiles, *[blank] * (SHOWN - len(tiles))] for _, tiles in kept]
    contact_sheet(sheet, [name for name, _ in kept], [""] * SHOWN, path)
    return path


def nearest(palette: Palette, k: int, slides: Sequence[LabelledSlide], names: Sequence[str]) -> list[Pixels]:
    """Up to SHOWN tiles with an image, each the nearest one of its slide to a prototype of class `k`: its own, if
    it has one. None is shown twice.
    """
    mine = np.flatnonzero(palette.classes == k)
    spread = mine[np.unique(np.linspace(0, len(mine) - 1, SHOWN).round().astype(int))]
    found: dict[tuple[int, int], Pixels] = {}
    for row in spread.tolist():
        slide = slides[palette.sources[row]]
        finest = slide.file.ladder.names[0]
        if not slide.file.has_images(finest):
            continue
        ij = slide.file.ij(finest)
        shares = slide.shares[(*ij.T, names.index(palette.names[k]))]
        here = np.flatnonzero(shares >= MAJORITY)
        if not len(here):
            continue
        flat = standardised(embeddings_of(slide.file)[tuple(ij[here].T)])
        wanted = standardised(palette.prototypes[row : row + 1].numpy())
        number = int(here[(flat @ wanted[0]).argmax()])
        found[int(palette.sources[row]), number] = slide.file.images(finest, [number])[0]
    return list(found.values())
