"""Georeferenced rasters (GeoTIFF and similar) through rasterio: colours, and which pixels have data.

A pixel has no data where the file's nodata value, mask or alpha band says so. GDAL tags the fourth of four 8-bit bands
alpha unless the file names it, so the infrared of NAIP scenes often appears as alpha. A band tagged alpha that is not a
mask (ldm/images/alpha.py) is ignored, and `notes` says so.

Shapes: h, w pixels. Pixels are uint8 (h, w, 4): red, green, blue, and 255 where there is data.
"""

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self
from xml.sax.saxutils import escape

import numpy as np

from ldm.errors import UserError
from ldm.images.alpha import Alpha
from ldm.images.contact_sheet import Pixels

if TYPE_CHECKING:
    import rasterio

DRIVERS = {"GTiff", "COG", "JP2OpenJPEG", "PNG", "JPEG", "HFA", "NITF"}
"""formats that contain their own pixels; a VRT reads any file that it names"""
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
GEO_TAGS = (33550, 33922, 34264, 34735, 42113, 50844)
"""ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory, GDAL_NODATA, RPCCoefficient"""
GEO_JP2 = (bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03"), b"gml.data")
"""the UUID of GeoJP2's box, and the label of GMLJP2's"""
COLOURS = ("red", "green", "blue")
METRES_PER_DEGREE = 111_320.0
"""of latitude"""
SIDE_MAX = 2**19
"""largest side in px; a whole glass slide at 0.1 um per pixel is smaller"""
TILE_MAX = 2**26
"""most pixels of one tile of a file, since a tile is decoded at once"""
INTO_TILES = "save it in tiles, for example vips tiffsave IN OUT --tile --pyramid"
logging.getLogger("rasterio").addHandler(logging.NullHandler())  # GDAL also raises what it logs
LOOK_PX, LOOK_PLACES = 256, 16
"""an alpha band is examined in at most 16 x 16 windows of 256 px, evenly spread"""


@contextmanager
def gdal_errors() -> Iterator[None]:
    """Turn rasterio's exceptions into OSError; its wrappers of GDAL's errors have no public class."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:
        if type(error).__module__.partition(".")[0] != "rasterio":
            raise
        raise OSError(str(error)) from error


def check_crs(text: str, what: str) -> None:
    """UserError where `text` of `what` is not a coordinate reference system; empty text is allowed."""
    if not text:
        return
    from rasterio import Env
    from rasterio.crs import CRS

    try:
        with gdal_errors(), Env():  # outside of an Env, PROJ writes its own line to the terminal
            CRS.from_wkt(text)
    except OSError as error:
        raise UserError(
            f"{what}: crs is {' '.join(text.split())[:80]!r}, expected the WKT of a coordinate reference system; "
            "prepare it again"
        ) from error


def check_size(path: Path, size: tuple[int, int], tile: int) -> None:
    """UserError for an image whose sides, or whose tiles of `tile` pixels, are too large to process."""
    if max(size) > SIDE_MAX:
        raise UserError(f"{path}: is {size[0]}x{size[1]} px, expected at most {SIDE_MAX} a side; check the file")
    if tile > TILE_MAX:
        raise UserError(f"{path}: its tiles have {tile} px, expected at most {TILE_MAX}; {INTO_TILES}")


class Place(NamedTuple):
    """Georeference: `transform` maps (column, row) of a pixel's corner to coordinates of `crs`."""

    crs: str
    """WKT; empty when only the transform is known"""
    transform: tuple[float, float, float, float, float, float]
    """a, b, c, d, e, f: x = a column + b row + c, y = d column + e row + f"""

    def scaled(self, pixels: float) -> "Place":
        """The place of an image with the same corner, whose pixels are as wide as `pixels` of this one."""
        a, b, c, d, e, f = self.transform
        return self._replace(transform=(a * pixels, b * pixels, c, d * pixels, e * pixels, f))

    def moved(self, column: float, row: float) -> "Place":
        """The place of an image that begins at (column, row) of this one."""
        a, b, c, d, e, f = self.transform
        return self._replace(transform=(a, b, a * column + b * row + c, d, e, d * column + e * row + f))


def place_of(dataset: "rasterio.DatasetReader") -> Place | None:
    """The georeference of a dataset; None without one."""
    if dataset.crs is None and dataset.transform.is_identity:
        return None
    a, b, c, d, e, f = dataset.transform[:6]
    return Place("" if dataset.crs is None else dataset.crs.to_wkt(), (a, b, c, d, e, f))


def metres_per_pixel(place: Place) -> float | None:
    """Metres per pixel of a place whose crs has a unit of length; in degrees, metres along the meridian. None without
    a known crs.
    """
    from rasterio.crs import CRS

    if not place.crs:
        return None
    _, b, _, _, e, _ = place.transform
    step = math.hypot(b, e)  # from a row to the next
    with gdal_errors():
        crs = CRS.from_wkt(place.crs)
        if crs.is_geographic:
            return step * METRES_PER_DEGREE
        return step * float(crs.linear_units_factor[1]) if crs.is_projected else None


def is_raster(path: Path) -> bool:
    """Whether a file has a georeference or a nodata value, in its tags or in a file beside it."""
    beside = path.with_name(f"{path.name}.aux.xml")
    if any(path.with_suffix(suffix).is_file() for suffix in world_suffixes(path)):
        return True
    if beside.is_file() and any(word in beside.read_bytes() for word in (b"<SRS", b"<GeoTransform", b"<GCPList")):
        return True
    with path.open("rb") as file:
        head = file.read(2**16)
    if head[:4] not in TIFF_STARTS:
        return head[4:8] == b"jP  " and any(mark in head for mark in GEO_JP2)
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        return any(tag in tiff.pages.first.tags for tag in GEO_TAGS)


def world_suffixes(path: Path) -> set[str]:
    """Suffixes of world files: for a.tif .tfw, .tifw and .wld, in small or, as GDAL reads them too, capital letters."""
    letters = path.suffix[1:].lower()
    suffixes = {f".{letters[0]}{letters[-1]}w", f".{letters}w", ".wld"} if len(letters) > 1 else {".wld"}
    return suffixes | {suffix.upper() for suffix in suffixes}


class Raster:
    """An open raster: `levels` are rasterio datasets, the full resolution and then its overviews."""

    levels: "list[rasterio.DatasetReader]"
    bands: list[int]
    """numbers of the red, green and blue band"""
    notes: tuple[str, ...]
    """messages about what was read differently than the file says"""
    place: Place | None

    def __init__(self, path: Path) -> None:
        """UserError for another format, more than eight bits, or bands without colours. OSError for a damaged file."""
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning

        with gdal_errors(), ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            source = stack.enter_context(rasterio.open(path))
            if source.driver not in DRIVERS:
                raise UserError(f"{path}: is {source.driver}, expected GeoTIFF; convert it with gdal_translate")
            check_size(path, (source.width, source.height), math.prod(source.block_shapes[0]))
            self.bands = _colour_bands(source, path)
            self.place = place_of(source)
            if self.place is None and (source.gcps[0] or source.rpcs):
                raise UserError(f"{path}: says where it lies by control points alone; lay it out with gdalwarp IN OUT")
            if source.subdatasets:
                remedy = "take one out with gdal_translate GTIFF_DIR:1:IN OUT"
                raise UserError(f"{path}: holds {len(source.subdatasets)} images, expected one; {remedy}")
            note = _no_mask(source, self.bands)
            self.notes = (note,) if note else ()
            self.levels = []
            for level in [None, *range(len(source.overviews(1)))]:
                dataset = source if level is None else stack.enter_context(rasterio.open(path, overview_level=level))
                if note:
                    dataset = stack.enter_context(rasterio.open(_without_alpha(dataset, path, level)))
                self.levels.append(dataset)
            self._stack = stack.pop_all()

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """(height, width, 4). Raises OSError where the file is damaged."""
        return read_rgba(self.levels[level], self.bands, x, y, width, height)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def read_rgba(dataset: "rasterio.DatasetReader", bands: list[int], x: int, y: int, width: int, height: int) -> Pixels:
    """(height, width, 4) of a dataset whose red, green and blue are `bands`. Raises OSError."""
    from rasterio.enums import ColorInterp
    from rasterio.errors import NodataShadowWarning
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window

    window = Window(x, y, width, height)
    with gdal_errors():
        if isinstance(dataset, WarpedVRT):
            seen = dataset.read(dataset.colorinterp.index(ColorInterp.alpha) + 1, window=window)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NodataShadowWarning)  # nodata has priority over another mask
                seen = dataset.dataset_mask(window=window)
        return np.dstack([*dataset.read(bands, window=window), np.where(seen, np.uint8(255), np.uint8(0))])


def _colour_bands(source: "rasterio.DatasetReader", path: Path) -> list[int]:
    """Numbers of the red, green and blue band. UserError for more than eight bits or without colour interpretation."""
    if any(kind != "uint8" for kind in source.dtypes):
        remedy = "scale all scenes alike, for example gdal_translate -ot Byte -scale 0 3000 0 255"
        raise UserError(f"{path}: bands are {', '.join(source.dtypes)}, expected uint8; {remedy}")
    names = [colour.name for colour in source.colorinterp]
    missing = [name for name in COLOURS if name not in names]
    if missing:
        remedy = "name them in order, for NAIP: rio edit-info --colorinterp red,green,blue,undefined FILE"
        if "palette" in names:
            remedy = "write its colours out: gdal_translate -expand rgb IN OUT"
        elif len(names) == 1:
            remedy = "make it three: gdal_translate -b 1 -b 1 -b 1 -colorinterp red,green,blue IN OUT"
        raise UserError(f"{path}: bands are {', '.join(names)}, without {', '.join(missing)}; {remedy}")
    return [names.index(name) + 1 for name in COLOURS]


def _no_mask(source: "rasterio.DatasetReader", bands: list[int]) -> str:
    """Why the band tagged alpha is not a mask (ldm/images/alpha.py); empty when it is one, or there is none."""
    from rasterio.enums import ColorInterp

    if ColorInterp.alpha not in source.colorinterp:
        return ""
    band = source.colorinterp.index(ColorInterp.alpha) + 1
    seen = Alpha()
    for window in _spread_windows(source):
        *colours, alpha = source.read([*bands, band], window=window)
        seen.add(alpha, np.dstack(colours))
    why = seen.why_none()
    return f"band {band} is tagged alpha, but {why}: not used as a mask" if why else ""


def _spread_windows(source: "rasterio.DatasetReader") -> "list[rasterio.windows.Window]":
    """Windows of LOOK_PX on a regular grid; they cover images of up to 16 x 256 px a side."""
    from rasterio.windows import Window

    def starts(length: int) -> list[int]:
        count = min(LOOK_PLACES, math.ceil(length / LOOK_PX))
        return sorted({round(k * max(0, length - LOOK_PX) / max(1, count - 1)) for k in range(count)})

    width, height = min(LOOK_PX, source.width), min(LOOK_PX, source.height)
    return [Window(x, y, width, height) for y in starts(source.height) for x in starts(source.width)]


def _without_alpha(dataset: "rasterio.DatasetReader", path: Path, level: int | None) -> str:
    """A virtual dataset (XML) of the same bands and mask, with the alpha band as an ordinary band."""
    from rasterio.enums import MaskFlags

    size = f'rasterXSize="{dataset.width}" rasterYSize="{dataset.height}"'
    option = "" if level is None else f'<OpenOptions><OOI key="OVERVIEW_LEVEL">{level}</OOI></OpenOptions>'
    file = f'<SourceFilename relativeToVRT="0">{escape(str(path))}</SourceFilename>{option}'

    def band(number: int) -> str:
        colour = dataset.colorinterp[number - 1].name.capitalize()
        nodata = "" if dataset.nodata is None else f"<NoDataValue>{dataset.nodata}</NoDataValue>"
        return (
            f'<VRTRasterBand dataType="Byte" band="{number}">{nodata}'
            f"<ColorInterp>{'Undefined' if colour == 'Alpha' else colour}</ColorInterp>"
            f"<SimpleSource>{file}<SourceBand>{number}</SourceBand></SimpleSource></VRTRasterBand>"
        )

    flags = dataset.mask_flag_enums[0]
    mask = ""
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        source = f"<SimpleSource>{file}<SourceBand>mask,1</SourceBand></SimpleSource>"
        mask = f'<MaskBand><VRTRasterBand dataType="Byte">{source}</VRTRasterBand></MaskBand>'
    place = f"<GeoTransform>{','.join(map(repr, dataset.transform.to_gdal()))}</GeoTransform>"
    crs = "" if dataset.crs is None else f"<SRS>{escape(dataset.crs.to_wkt())}</SRS>"
    bands = "".join(map(band, dataset.indexes))
    return f"<VRTDataset {size}>{crs}{place}{bands}{mask}</VRTDataset>"
