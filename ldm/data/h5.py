"""A prepared slide: one HDF5 file, the contract between preparation and training.

    attrs                       format, slide_id, source, width_l0, height_l0, base_mpp, kind, scales, tile_px,
                                encoder, autoencoder, latents_id (id of the encoding) ... settings: JSON of everything
                                that the content depends on, {"cohort": what the slides of a cohort share, "slide": what
                                is specific to this one} eligible: JSON, by scale, the regions of which some were drawn
                                (regions_per_scale)
    unreadable                  (n, 2) i64                       level-0 corners of base tiles that were left out
    embeddings/0                (rows, cols, d) f16              base tiles' embeddings on the slide's whole grid
    embeddings/k                (rows / 2^k, cols / 2^k, d) f16  their k-fold 2x2 means
    scales/<name>/ij            (n, 2) i32                       the region's place on its scale's grid
                 /tissue        (n,) f32                         its share of tissue
                 /valid         (n,) f32                         its share that lies on the slide; the rest is padding
                 /latents       (n, 3, h, w) f16                 optional
                 /images        (bytes,) u8                      optional: JPEG or PNG files, one after the other
                 /image_ends    (n,) i64                         where each of them ends

A region (i, j) of scale s covers base tiles [i 2^s, (i+1) 2^s) x [j 2^s, (j+1) 2^s); its condition is a window of at
most 8x8 tokens of one level of the embedding pyramid. One chunk per latent, uncompressed. Every dataset carries
fletcher32, nothing has variable length, and the file's own metadata is checksummed, so that flipped bits are detected.
"""

import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ldm.data.contract import LARGEST, check_attributes, check_datasets, check_members
from ldm.data.tokens import normalize_tokens
from ldm.errors import UserError
from ldm.scales import Ladder, ladder
from ldm.support.typed import typed

_BLOCK_BYTES = 2**26
PNG_DEPTH = 24
"""offset of a PNG's bit-depth byte"""


def _decode(value: Any) -> Any:
    """An attribute in the type that SlideWriter was given; other types stay as they are, for the checks to refuse."""
    if isinstance(value, np.ndarray):
        texts = value.ndim == 1 and value.dtype.kind == "S"
        return [text.decode(errors="surrogateescape") for text in value.tolist()] if texts else value
    if isinstance(value, bytes):
        return value.decode(errors="surrogateescape")
    return value.item() if isinstance(value, np.generic) else value


def _json(text: str) -> dict[str, Any]:
    """A mapping written as JSON; empty for anything else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _attributes(file: h5py.File) -> dict[str, Any]:
    return {key: _decode(value) for key, value in file.attrs.items()}


def _extent(dataset: h5py.Dataset) -> tuple[int, int]:
    rows, cols, _ = dataset.shape
    return rows, cols


def _blocks(dataset: h5py.Dataset) -> tuple[int, int, int]:
    """Rows, bytes of a row, rows of a chunk."""
    rows = len(dataset)
    return rows, dataset.nbytes // max(1, rows), dataset.chunks[0]


def _decoded(content: bytes, side: int, decode: bool) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG to (side, side, 3). OSError for another format, another size or other than 8-bit RGB."""
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    except UnidentifiedImageError as error:
        raise OSError("it is neither JPEG nor PNG") from error
    if image.size != (side, side):
        raise OSError(f"it has {image.width}x{image.height} px, expected {side} a side")
    if image.mode != "RGB":
        raise OSError(f"its colours are {image.mode}, expected RGB of 8 bits")
    if image.format == "PNG" and content[PNG_DEPTH] != 8:  # Pillow would take the upper 8 of 16 bits
        raise OSError(f"its colours have {content[PNG_DEPTH]} bits, expected RGB of 8 bits")
    return np.array(image) if decode else np.empty((0, 0, 3), np.uint8)


class SlideFile:
    """Reads a prepared slide: opened read-only, on first use, once per process; picklable.

    Every method raises UserError when the file is missing, of another format, or damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._process = 0
        self._names: list[str] = []
        self._objects: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_process": 0, "_names": [], "_objects": {}}

    @cached_property
    def attrs(self) -> dict[str, Any]:
        return self._guarded("/", _attributes)

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The settings that the slides of a cohort share; empty in files of earlier versions."""
        found = _json(self.attrs.get("settings", "")).get("cohort", {})
        return found if isinstance(found, dict) else {}

    def eligible(self, scale: str) -> int | None:
        """Number of regions of `scale` with enough tissue, of which the file holds some; None if not recorded."""
        found = _json(self.attrs.get("eligible", "")).get(scale)
        return found if isinstance(found, int) else None

    @cached_property
    def ladder(self) -> Ladder:
        return ladder(self.attrs["kind"], len(self.attrs["scales"]))

    def count(self, scale: str) -> int:
        """Number of regions of `scale`."""
        return self._guarded(f"scales/{scale}/ij", len)

    def ij(self, scale: str) -> NDArray[np.int32]:
        """(n, 2) row and column of each region on the scale's grid."""
        return self._read(f"scales/{scale}/ij")

    def tissue(self, scale: str) -> NDArray[np.float32]:
        """(n,) share of tissue of each region."""
        return self._read(f"scales/{scale}/tissue")

    def valid(self, scale: str) -> NDArray[np.float32]:
        """(n,) share of each region that lies on the slide."""
        return self._read(f"scales/{scale}/valid")

    def unreadable(self) -> list[tuple[int, int]]:
        """(x, y) in level-0 pixels of the base tiles that could not be read."""
        there = self._guarded("/", lambda file: "unreadable" in file)
        return [(x, y) for x, y in self._read("unreadable").tolist()] if there else []

    def latents(self, scale: str, rows: Iterable[int]) -> Tensor:
        """(n, 3, h, w) float32, unquantised. UserError when the slide was prepared without an autoencoder."""
        unique, back = np.unique(np.fromiter(rows, int), return_inverse=True)
        return self._finite(f"scales/{scale}/latents", unique)[torch.from_numpy(back)]

    def latent(self, scale: str, row: int) -> Tensor:
        """(3, h, w) float32: the latent of region `row`, read without the list that `latents` makes."""
        return self._finite(f"scales/{scale}/latents", row)

    def images(self, scale: str, rows: Iterable[int]) -> list[NDArray[np.uint8]]:
        """(h, w, 3) uint8 of each of `rows`. UserError when the slide was prepared without images."""
        ends = self._read(f"scales/{scale}/image_ends")
        starts = np.concatenate([[0], ends])
        return [self._image(scale, row, slice(starts[row], ends[row])) for row in rows]

    def check_images(self, scale: str) -> None:
        """UserError where an image of `scale` is no JPEG or PNG of tile_px a side in RGB; the last one is decoded."""
        ends = self._read(f"scales/{scale}/image_ends")
        starts = np.concatenate([[0], ends])
        for row, (start, end) in enumerate(zip(starts, ends, strict=False)):
            self._image(scale, row, slice(start, end), decode=row == len(ends) - 1)

    def _image(self, scale: str, row: int, where: slice, decode: bool = True) -> NDArray[np.uint8]:
        """One image; empty when only its header is checked."""
        content = self._read(f"scales/{scale}/images", where).tobytes()
        try:
            return _decoded(content, self.attrs["tile_px"], decode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # Pillow raises all of them
            raise UserError(f"{self.path}: image {row} of {scale}: {error}; prepare this slide again") from error

    def datasets(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of what belongs to a prepared slide."""
        self._guarded("/", bool)
        return {name: self._guarded(name, lambda dataset: dataset.shape) for name in self._names}

    def blocks(self, name: str) -> Iterator[NDArray[Any]]:
        """A whole dataset as stored, some megabytes at a time along its first axis; this verifies every checksum."""
        rows, row_bytes, chunk = self._guarded(name, _blocks)
        step = max(chunk, _BLOCK_BYTES // max(1, row_bytes) // chunk * chunk)
        for start in range(0, rows, step):
            yield self._read(name, slice(start, start + step))

    def has_images(self, scale: str) -> bool:
        """Whether the slide was prepared with images."""
        return self._guarded("/", lambda file: f"scales/{scale}/images" in file)

    @property
    def base_l0(self) -> float:
        """Full-resolution pixels per base pixel; where patches were imported, not what `base_mpp` says."""
        return float(self.attrs.get("read_mpp", self.attrs["base_mpp"]) / self.attrs["mpp_l0"])

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of base tiles."""
        rows, cols = self._guarded("embeddings/0", _extent)
        return rows, cols

    @property
    def channels(self) -> int:
        """Of an embedding."""
        return self._guarded("embeddings/0", lambda dataset: int(dataset.shape[2]))

    def embedding(self, scale: str, row: int) -> Tensor:
        """(d, g, g) float32: the condition of region `row`, its tokens normalised."""
        zoom = self.ladder[scale]
        i, j = (self._read(f"scales/{scale}/ij", row) * zoom.grid).tolist()
        return normalize_tokens(self.tokens(zoom.pyramid_level, i, j, zoom.grid, zoom.grid))

    def tokens(self, level: int, row: int, col: int, rows: int, cols: int) -> Tensor:
        """(d, rows, cols) float32: a rectangle of one level of the embedding pyramid, as stored, not normalised.

        UserError when it does not lie on the slide.
        """
        name = f"embeddings/{level}"
        height, width = self._guarded(name, _extent)
        if min(row, col) < 0 or min(rows, cols) < 1 or row + rows > height or col + cols > width:
            raise UserError(
                f"{self.path}: {rows}x{cols} tokens of level {level} asked at row {row}, column {col}; "
                f"the slide has {height}x{width}: choose a smaller canvas or another place"
            )
        grid = self._finite(name, (slice(row, row + rows), slice(col, col + cols)))  # (rows, cols, d)
        return grid.permute(2, 0, 1)

    def _finite(self, name: str, where: Any) -> Tensor:
        """Values of latents or embeddings, of which none is NaN, infinite or absurd, in float32."""
        values = torch.from_numpy(self._read(name, where)).float()
        ends = [float(end) for end in values.aminmax()] if values.numel() else [0.0]
        if not all(map(math.isfinite, ends)):
            raise UserError(f"{self.path}: {name} has values that are not finite; prepare this slide again")
        largest = LARGEST["latents" if name.endswith("latents") else "embeddings"]
        if (most := max(map(abs, ends))) > largest:
            raise UserError(
                f"{self.path}: {name} has values up to {most:g}, expected at most {largest:g}; prepare this slide again"
            )
        return values

    def _read(self, name: str, where: Any = ...) -> NDArray[Any]:
        return self._guarded(name, lambda dataset: dataset[where])

    def _guarded(self, name: str, read: Callable[[Any], Any]) -> Any:
        """Call `read` on the object `name`, whose handle is cached."""
        try:
            if self._process != os.getpid():
                self._objects = {"/": self._open()}
                self._check()
                self._process = os.getpid()
            if name not in self._objects:
                self._objects[name] = self._checksummed(name)
            return read(self._objects[name])
        except KeyError as error:
            raise UserError(f"{self.path}: has no {name}; prepare this slide again with it") from error
        except UserError:
            raise
        except (OSError, RuntimeError, ValueError, IndexError, MemoryError) as error:
            raise UserError(f"{self.path}: {name} is damaged ({error}); prepare this slide again") from error

    def _check(self) -> None:
        """Check the layout of a file that was just opened."""
        root = self._objects["/"]
        attrs = _attributes(root)
        zooms = check_attributes(self.path, attrs)
        check_members(self.path, root, zooms)
        self._names = check_datasets(
            self.path, lambda name: self._checksummed(name) if name in root else None, attrs, zooms
        )

    def _checksummed(self, name: str) -> h5py.Dataset:
        """The dataset `name`. Datasets in other files, and without checksums, are refused."""
        root = self._objects["/"]
        found = root[name]
        if not isinstance(found, h5py.Dataset) or found.file.filename != root.filename or not found.fletcher32:
            raise UserError(f"{self.path}: {name} has no checksums; prepare this slide again")
        return found

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            found = "is a folder, expected one slide (.h5) of it" if self.path.is_dir() else "does not exist"
            raise UserError(f"{self.path}: {found}; make it with {typed('prepare')}")
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            if self.path.suffix != ".h5":
                raise UserError(
                    f"{self.path}: is no prepared slide, expected a .h5 file; make one of it with {typed('prepare')} "
                    f"--config mine slides={self.path.parent} out=FOLDER and give FOLDER/{self.path.stem}.h5"
                ) from error
            raise UserError(
                f"{self.path}: cannot be opened ({error}); prepare this slide again, or on a network disk "
                "that refuses locks set HDF5_USE_FILE_LOCKING=FALSE"
            ) from error
