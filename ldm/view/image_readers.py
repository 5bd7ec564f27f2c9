"""Open any file that can be shown: slides, OME-TIFF and plain pictures as preparation does, scenes with the pixels of
the file (not reprojected), prepared slides from the regions that they hold.
"""

from pathlib import Path

from data_prep.slides.ome import open_ome
from data_prep.slides.readers import Box, Pixels, Reader, open_reader
from ldm.errors import UserError
from ldm.images.picture_files import READ_ERRORS
from ldm.images.rasters import Raster, is_raster, metres_per_pixel

PREPARED = ".h5"


def open_shown(path: Path) -> Reader:
    """UserError in one line for a file that is missing, damaged or of another kind."""
    if path.suffix.lower() == PREPARED:
        from ldm.view.prepared import PreparedReader

        return PreparedReader(path)
    try:
        if is_raster(path):
            return RasterReader(path)
        return open_ome(path) or open_reader(path)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: does not exist; check the path") from error
    except READ_ERRORS as error:
        found = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: cannot be read as an image ({found}); copy it again, or convert it") from error


class RasterReader:
    """A georeferenced picture, black where it has no data."""

    background = (0, 0, 0)
    unit = "m"
    """of `mpp`"""

    def __init__(self, path: Path) -> None:
        self._raster = Raster(path)
        self.sizes = [(level.width, level.height) for level in self._raster.levels]
        self.size_l0, self.extent = self.sizes[0], Box(0, 0, *self.sizes[0])
        self.notes, self.place = self._raster.notes, self._raster.place
        metres = None if self.place is None else metres_per_pixel(self.place)
        self.mpp = None if metres is None else (metres, metres)

    def read(self, level: int, x_level: int, y_level: int, width: int, height: int) -> Pixels:
        return self._raster.read(level, x_level, y_level, width, height)
