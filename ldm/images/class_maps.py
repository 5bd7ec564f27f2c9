"""Class maps: regions drawn into a raster of classes, and a raster of classes outlined as regions.

A class raster is an image of one band of whole numbers (PNG with or without a palette, TIFF, GeoTIFF) with a legend
beside it: `map.csv` beside `map.png`, with the columns value, class and, optionally, colour as #c80000. A value of 0
without a line in the legend is what no class covers.

Shapes: h, w cells. Coordinates are x, y.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldm.errors import UserError
from ldm.images.geojson import ClassRegion, ClassRegions, Colour, in_coordinates
from ldm.images.rasters import check_size, gdal_errors, place_of
from ldm.support.csv_table import read_csv

if TYPE_CHECKING:
    from shapely import Geometry

ClassMap = NDArray[np.unsignedinteger]
LARGEST_VALUE = 2**16 - 1


class Legend(NamedTuple):
    """A class of a raster."""

    name: str
    colour: Colour | None = None


def drawn(regions: Sequence[tuple["Geometry", int]], shape: tuple[int, int], cell: float, rest: int) -> ClassMap:
    """Class map (h, w) = `shape` of regions (geometry, class) in coordinates whose origin is the map's first corner and
    in which a cell is `cell` wide; `rest` elsewhere.

    A cell belongs to the region that covers its middle; of several, to the smallest: the innermost.
    """
    from rasterio.features import rasterize
    from rasterio.transform import Affine

    ordered = sorted(regions, key=lambda region: -region[0].area)
    if not ordered:
        return np.full(shape, rest, np.uint16)
    return rasterize(ordered, shape, fill=rest, transform=Affine.scale(cell), dtype="uint16")


def outlined(classes: ClassMap, legend: dict[int, Legend], cell: float, smooth: bool = False) -> list[ClassRegion]:
    """The connected areas of a class map (h, w) whose classes are in `legend`, `cell` wide cells, row by row.

    `smooth`: without the steps of the cells; neighbours keep a common border.
    """
    import shapely
    from rasterio.features import shapes
    from rasterio.transform import Affine
    from shapely.geometry import shape

    wanted = np.isin(classes, list(legend))
    found = [
        (shape(area), int(value))
        for area, value in shapes(classes.astype(np.uint16), wanted, transform=Affine.scale(cell))
    ]
    areas = [area for area, _ in found]
    if smooth and areas:
        areas = list(shapely.make_valid(shapely.coverage_simplify(areas, cell)))
    return [
        ClassRegion(legend[value].name, area, legend[value].colour)
        for area, (_, value) in zip(areas, found, strict=True)
        if area.area > 0
    ]


def class_shares(classes: ClassMap, count: int, cells: int) -> NDArray[np.float32]:
    """Share (rows, cols, count) of each of `count` classes in the squares of `cells` x `cells` cells of a map."""
    rows, cols = (length // cells for length in classes.shape)
    squares = classes[: rows * cells, : cols * cells].reshape(rows, cells, cols, cells)
    return np.stack([(squares == k).mean((1, 3), dtype=np.float32) for k in range(count)], axis=-1)


def read_class_raster(path: str | Path) -> ClassRegions:
    """The regions of a class raster: in coordinates of its crs or, without one, in its pixels.

    UserError when it is no raster of one band of whole numbers, or its legend is missing or lacks a value.
    """
    import rasterio
    import shapely
    from rasterio.errors import NotGeoreferencedWarning

    path = Path(path)
    try:
        with gdal_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                check_size(path, (file.width, file.height), file.block_shapes[0][0] * file.block_shapes[0][1])
                if file.count != 1 or np.dtype(file.dtypes[0]).kind not in "iu":
                    found = f"{file.count} bands of {file.dtypes[0]}"
                    raise UserError(
                        f"{path}: has {found}, expected one band of whole numbers; save class numbers, not colours"
                    )
                values, place = file.read(1), place_of(file)
    except OSError as error:
        reason = " ".join(str(error).split())[:80]
        raise UserError(f"{path}: cannot be read ({reason}); expected a class raster, PNG or TIFF") from error
    legend = read_legend(path.with_suffix(".csv"))
    unknown = sorted(set(np.unique(values).tolist()) - set(legend) - {0})
    if unknown:
        raise UserError(
            f"{path}: holds the value {unknown[0]}, which {path.with_suffix('.csv').name} does not name; add its line"
        )
    height, width = values.shape
    regions = outlined(values.astype(np.uint16), legend, 1.0)
    if not regions:
        raise UserError(f"{path}: holds no value of {path.with_suffix('.csv').name}, expected some; check both files")
    if place is None or not place.crs:
        note = "its georeference names no crs, so its pixels are counted" if place else ""
        return ClassRegions(regions, notes=(note,) if note else (), frame=(0, 0, width, height))
    corners = in_coordinates([ClassRegion("", shapely.box(0, 0, width, height))], place)[0].geometry.bounds
    left, bottom, right, top = corners
    return ClassRegions(in_coordinates(regions, place), place.crs, frame=(left, bottom, right, top))


def read_legend(path: Path) -> dict[int, Legend]:
    """The classes of a raster by their values. UserError, with the line, for a file that is none."""
    table = read_csv(path, ["value", "class"], ["colour"])
    legend: dict[int, Legend] = {}
    for line, cells in table.rows:
        text, name = cells["value"], " ".join(cells["class"].split())
        if not text.isascii() or not text.isdigit() or int(text) > LARGEST_VALUE or int(text) in legend or not name:
            raise UserError(
                f"{path}: line {line}: {text[:20]},{name[:40]} found, expected a whole number from 0 to "
                f"{LARGEST_VALUE}, each once, and a name"
            )
        legend[int(text)] = Legend(name, _colour(f"{path}: line {line}", cells.get("colour", "")))
    return legend


def _colour(where: str, text: str) -> Colour | None:
    if not text:
        return None
    try:
        red, green, blue = bytes.fromhex(text.removeprefix("#"))
    except ValueError as error:
        raise UserError(f"{where}: colour {text[:20]} found, expected six hex digits, as #c80000") from error
    return red, green, blue
