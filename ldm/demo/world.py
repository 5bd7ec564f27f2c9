"""Demo slides: procedural images in the file formats of real slides, a function of the seed alone.

    zoomldm draw --out data/demo/slides --count 4 --seed 0 --kind histology --size 4096

Each comes with its true map, what was drawn where, as SLIDE.geojson beside it (ldm/demo/true_map.py).

histology: H&E at 0.5 um per pixel, a pyramidal TIFF that OpenSlide opens (ldm/demo/histology.py).
neighbours: the same, with four tumour nests and four lymphoid follicles, beside each other on every other slide and
    apart on the rest: a label that is an arrangement, in labels.csv beside the slides (ldm/demo/arrangement.py).
satellite: red, green, blue and near infrared at 1 m per pixel, a GeoTIFF in UTM zone 14N (ldm/demo/satellite.py).
"""

import re
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.transform import Affine, from_origin
from rasterio.windows import Window
from scipy import ndimage
from tqdm import tqdm

from ldm.demo.histology import histology_slide
from ldm.demo.satellite import satellite_scene
from ldm.demo.textures import BLOCK, STEP, Array
from ldm.demo.true_map import CLASSES, GLASS, true_map
from ldm.errors import UserError
from ldm.images.class_maps import Legend, outlined
from ldm.images.contact_sheet import contact_sheet
from ldm.images.geojson import in_coordinates
from ldm.images.geojson_writer import write_regions
from ldm.images.pyramid_tiff import write_pyramid
from ldm.images.rasters import Place
from ldm.scales import ladder
from ldm.support.files import atomic_write, write_text
from ldm.support.machines import available_memory

KINDS = {"histology": "histology", "neighbours": "histology", "satellite": "satellite"}
"""kinds of slides, and the ladder of each"""
SMALLEST_PX, SMALLEST_ARRANGED_PX = 1024, 2048
CRS = "EPSG:32614"
SHOWN = 256
"""side of the pictures in the overview, in pixels"""


MEMORY_A_PIXEL, DISK_A_PIXEL = 8, 0.2
"""least bytes per pixel of a slide that is drawn, and of its file"""
MARKER = ".demo-slides"
"""suffixes of the files in a folder of demo slides; a folder with other files is the user's own"""
DRAWN = re.compile(rf"(?:{'|'.join(KINDS)})_[0-9]+\.(?:tiff|geojson)|labels\.csv|overview\.png|\..*")


def may_draw(folder: Path) -> bool:
    """Whether slides may be drawn into `folder`: it is absent, empty, or holds only drawn slides."""
    if not folder.exists():
        return True
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    return folder.is_dir() and (MARKER in names or all(DRAWN.fullmatch(name) for name in names))


def generate(out: str | Path, count: int, seed: int, kind: str, size_px: int) -> list[Path]:
    """Write slides seed, seed + 1, ... as out/<kind>_<seed>.tiff and return their paths; whole ones are kept.

    Raises UserError for an unknown kind, a count or seed out of range, a size that is not a multiple of 256 from 1024
    on, an existing file of another size, and a folder that holds anything but slides that were drawn.
    """
    if kind not in KINDS:
        raise UserError(f"kind: {kind} is unknown; it is one of {', '.join(KINDS)}")
    if count < 1 or seed < 0:
        raise UserError(f"count {count}, seed {seed}: expected a count of at least 1 and a seed of at least 0")
    smallest = SMALLEST_ARRANGED_PX if kind == "neighbours" else SMALLEST_PX
    if size_px < smallest or size_px % BLOCK:
        raise UserError(f"size: {size_px} px; expected a multiple of {BLOCK} from {smallest} on, for example 4096")
    _check_room(Path(out), count, size_px)
    if not may_draw(Path(out)):
        raise UserError(f"{out}: holds files of your own; choose an empty folder for slides that are drawn")
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / MARKER).touch()
    paths = [Path(out) / f"{kind}_{number}.tiff" for number in range(seed, seed + count)]
    if kind == "neighbours":
        write_labels(Path(out), set(paths))
    for number, path in enumerate(tqdm(paths, desc=f"{kind} slides", unit="slide"), start=seed):
        if not is_whole(path, size_px):
            write_slide(path, kind, number, size_px)
        if not path.with_suffix(".geojson").is_file():
            write_true_map(path, kind, number, size_px)
    return paths


def _check_room(out: Path, count: int, size_px: int) -> None:
    """UserError where one slide does not fit in memory, or all of them on the disk, by a lower bound."""
    while not out.exists():
        out = out.parent
    for what, needed, free in (
        (f"size: {size_px} px", MEMORY_A_PIXEL * size_px**2, available_memory()),
        (f"count: {count} slides of {size_px} px", DISK_A_PIXEL * size_px**2 * count, shutil.disk_usage(out).free),
    ):
        if needed > free:
            place = "memory" if what.startswith("size") else f"disk in {out.resolve()}"
            raise UserError(f"{what} need at least {needed / 1e9:,.0f} GB of {place}, {free / 1e9:,.0f} GB are free")


def are_beside(seed: int) -> bool:
    """Whether the follicles of slide `seed` of kind neighbours lie beside nests."""
    return seed % 2 == 1


def write_labels(folder: Path, paths: set[Path]) -> None:
    """Write labels.csv for `paths` and every other slide of kind neighbours in their folder."""
    seeds = sorted(int(path.stem.partition("_")[2]) for path in paths | set(folder.glob("neighbours_*.tiff")))
    lines = [f"neighbours_{seed},{'beside' if are_beside(seed) else 'apart'}" for seed in seeds]
    write_text(folder / "labels.csv", "\n".join(["slide,label", *lines]) + "\n")


def is_whole(path: Path, size_px: int) -> bool:
    """Whether `path` is a readable image of that size. Raises UserError when it has another size."""
    if not path.exists():
        return False
    try:
        with open_quietly(path) as image:
            size = (image.height, image.width)
    except RasterioIOError:
        return False
    if size != (size_px, size_px):
        raise UserError(f"{path}: is {size[1]} x {size[0]} px, asked for {size_px}; remove it or choose another --out")
    return True


def arrangement_of(kind: str, seed: int) -> bool | None:
    """Whether the follicles of slide `seed` lie beside nests; None: as it happens."""
    return are_beside(seed) if kind == "neighbours" else None


def write_slide(path: Path, kind: str, seed: int, size_px: int) -> None:
    """Draw one slide and write it in the format of its kind."""
    if kind == "satellite":
        write_geotiff(path, satellite_scene(seed, size_px), seed)
        return
    slide = histology_slide(seed, size_px, arrangement_of(kind, seed))
    write_pyramid(path, slide, mpp=ladder("histology").base_mpp)


def write_true_map(path: Path, kind: str, seed: int, size_px: int) -> None:
    """Write the true map of a slide beside it as GeoJSON: in pixels, of a scene in its crs."""
    classes = CLASSES[KINDS[kind]]
    found = true_map(KINDS[kind], seed, size_px, arrangement_of(kind, seed))
    legend = {value: Legend(name, colour) for value, (name, colour) in enumerate(classes.items()) if name != GLASS}
    regions, crs = outlined(found, legend, STEP, smooth=True), ""
    if kind == "satellite":
        regions, crs = in_coordinates(regions, Place(CRS, transform_of(seed)[:6])), CRS
    write_regions(path.with_suffix(".geojson"), regions, crs)


def transform_of(seed: int) -> Affine:
    """The seed places a scene on the map."""
    metres = ladder("satellite").base_mpp
    return from_origin(400_000 + 10_000 * (seed % 20), 4_000_000 + 10_000 * (seed // 20 % 50), metres, metres)


def write_geotiff(path: Path, image: Array, seed: int) -> None:
    """Write (h, w, 4) uint8 as a tiled, deflated GeoTIFF with averaged overviews; the seed places it on the map."""
    h, w, bands = image.shape
    transform = transform_of(seed)
    layout = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "predictor": 2}
    shape = {"height": h, "width": w, "count": bands, "dtype": "uint8"}
    with atomic_write(path) as temporary:
        with rasterio.open(
            temporary,
            "w",
            driver="GTiff",
            crs=CRS,
            transform=transform,
            photometric="RGB",
            alpha="NO",
            **shape,
            **layout,
        ) as file:
            file.write(np.moveaxis(image, 2, 0))
            file.colorinterp = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined)
            file.set_band_description(4, "near infrared")
        halvings = [2**level for level in range(1, 20) if min(h, w) >> level >= 256]
        with rasterio.open(temporary, "r+") as file:
            file.build_overviews(halvings, Resampling.average)


def open_quietly(path: Path) -> rasterio.DatasetReader:
    """Open with GDAL, without its warning that a histology slide is not georeferenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def overview(paths: Sequence[Path], kind: str, picture: Path) -> None:
    """A contact sheet: each slide whole, then around one place at those of the four finest zooms that show a part."""
    with open_quietly(paths[0]) as image:
        size_px = image.height
    finest = ladder(KINDS[kind]).scales[:4]
    scales = [scale for scale in reversed(finest) if SHOWN * scale.downsample < size_px]
    rows = [zooms(path, [scale.downsample for scale in scales]) for path in paths]
    contact_sheet(rows, [path.stem for path in paths], ["whole", *(scale.name for scale in scales)], picture)


def zooms(path: Path, downsamples: Sequence[int]) -> list[Array]:
    """The whole slide, then its most detailed place shrunk by each of `downsamples`; each SHOWN pixels wide."""
    with open_quietly(path) as image:
        shape = (3, SHOWN, SHOWN)

        def read(window: Window) -> Array:
            pixels = image.read([1, 2, 3], window=window, out_shape=shape, resampling=Resampling.average)
            return np.moveaxis(pixels, 0, 2)

        everything = read(Window(0, 0, image.width, image.height))
        y, x = (place * image.height // SHOWN for place in richest(everything))
        pictures = [everything]
        for downsample in downsamples:
            side = min(SHOWN * downsample, image.height)
            top, left = (int(np.clip(v - side // 2, 0, image.height - side)) for v in (y, x))
            pictures.append(read(Window(left, top, side, side)))
        return pictures


def richest(picture: Array) -> tuple[int, int]:
    """The place (y, x) with the most detail around it."""
    values = picture.mean(axis=2)
    detail = (values - ndimage.gaussian_filter(values, 3)) ** 2
    y, x = np.unravel_index(ndimage.gaussian_filter(detail, 16, mode="constant").argmax(), values.shape)
    return int(y), int(x)
