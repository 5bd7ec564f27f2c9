"""A Cloud-Optimised GeoTIFF, written in bands of rows.

    with CogWriter("scene.tif", height, width, place) as writer:
        for band in bands:
            writer.write(band)

GDAL's COG driver copies a complete file, so the bands are first written to a temporary tiled GeoTIFF. Both are
lossless; levels are 2x2 means. Memory: one row of tiles and GDAL's cache; disk space: about three times the file.

Shapes: h, w pixels. Bands are uint8 (rows, w, 3).
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from ldm.errors import UserError
from ldm.images.contact_sheet import Pixels, check_band
from ldm.images.rasters import Place, gdal_errors
from ldm.support.files import atomic_write, report_disk_full, writer

TILE_PX = 512
CACHE_MIB = 64
"""GDAL's block cache in bytes"""
NEARLY_FULL = 2**22
"""a disk with fewer free bytes than this after a failed write counts as full"""
LOSSLESS = {"compress": "deflate", "predictor": 2, "bigtiff": "if_safer"}
COG = {**LOSSLESS, "predictor": "yes", "blocksize": TILE_PX, "overview_resampling": "average"}


class CogWriter:
    """Writes an RGB image `height` x `width` that lies at `place`; the file appears after its last row was written."""

    def __init__(self, path: str | Path, height: int, width: int, place: Place) -> None:
        """UserError for a size below 1x1."""
        if min(height, width) < 1:
            raise UserError(f"{path}: {width}x{height} px; expected at least 1x1")
        self.path, self.height, self.width, self.place = Path(path), height, width, place
        self._received = 0
        self._waiting = np.empty((0, width, 3), np.uint8)

    def __enter__(self) -> Self:
        import rasterio
        from rasterio.crs import CRS
        from rasterio.transform import Affine

        with ExitStack() as stack:
            stack.enter_context(report_disk_full(self.path, self._needed))
            self._partial = stack.enter_context(atomic_write(self.path, self._needed))
            self._tiled = self.path.with_name(f".{self.path.name}.tiled.{writer()}.partial")
            stack.callback(self._tiled.unlink, missing_ok=True)
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=CACHE_MIB, GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"))
            layout: dict[str, Any] = {"count": 3, "height": self.height, "width": self.width, "dtype": "uint8"}
            layout |= {"tiled": True, "blockxsize": TILE_PX, "blockysize": TILE_PX, "photometric": "RGB", **LOSSLESS}
            with gdal_errors():
                crs = CRS.from_wkt(self.place.crs) if self.place.crs else None
            with self._gdal_errors():
                self._file = rasterio.open(
                    self._tiled, "w", driver="GTiff", crs=crs, transform=Affine(*self.place.transform), **layout
                )
            stack.callback(self._file.close)
            self._stack = stack.pop_all()
        return self

    def write(self, band: Pixels) -> None:
        """The next rows. UserError for another type or width, or too many."""
        received = self._received + len(self._waiting) + len(band)
        check_band(self.path, band, received, self.height, self.width)
        self._waiting = np.concatenate([self._waiting, band])
        while len(self._waiting) >= TILE_PX or (received == self.height and len(self._waiting)):
            rows, self._waiting = self._waiting[:TILE_PX], self._waiting[TILE_PX:]
            self._write_rows(rows)

    def _write_rows(self, rows: Pixels) -> None:
        from rasterio.windows import Window

        window = Window(0, self._received, self.width, len(rows))
        with self._gdal_errors():
            self._file.write(np.moveaxis(rows, -1, 0), window=window)
        self._received += len(rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Make the file unless the body failed. UserError when rows are missing."""
        from rasterio.shutil import copy

        if kind is not None:
            self._stack.__exit__(kind, error, trace)
            return
        with self._stack:
            if self._received < self.height:
                raise UserError(
                    f"{self.path}: {self._received + len(self._waiting)} rows written; expected {self.height}"
                )
            with self._gdal_errors():
                self._file.close()
                copy(str(self._tiled), str(self._partial), driver="COG", **COG)

    @contextmanager
    def _gdal_errors(self) -> Iterator[None]:
        """Turn GDAL's errors into OSError; GDAL does not report that a disk is full."""
        try:
            with gdal_errors():
                yield
        except OSError as error:
            tiled = self._tiled.stat().st_size if self._tiled.exists() else 0
            short = shutil.disk_usage(self.path.parent).free < max(NEARLY_FULL, 2 * tiled)
            if error.errno is None and short:
                raise OSError(errno.ENOSPC, str(error)) from error
            raise

    def _needed(self) -> int:
        """Bytes on disk without compression: the bands, the file and its levels."""
        return 3 * self.height * self.width * 10 // 3
