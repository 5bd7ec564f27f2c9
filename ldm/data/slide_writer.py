"""Writes a prepared slide; the layout is described in ldm/data/h5.py."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import h5py
import numpy as np
from numpy.typing import NDArray

from ldm.data.contract import FORMAT, LARGEST
from ldm.errors import UserError
from ldm.support.files import Sink, atomic_write

_CHUNK_TILES = 8
_CHUNK_ROWS = 1024
_CHUNK_BYTES = 2**16


class SlideWriter:
    """Writes one slide atomically: the file appears under its name only when it is complete.

    with SlideWriter(path, attrs) as writer:
        writer.create_embeddings(rows, cols, width, levels)
        writer.write_embeddings(level, row, col, grid)
        writer.append("20x", ij, tissue, latents=latents, images=files)
    """

    def __init__(self, path: str | Path, attrs: Mapping[str, Any], needed: Callable[[], int] | None = None) -> None:
        """`attrs`: str, int, float or a list of str; `format` is added. Strings longer than 60 kB do not fit.

        `needed`: approximate size of the file in bytes, for the error of a full disk.
        """
        self.path, self._needed = Path(path), needed
        self._attrs = {"format": FORMAT, **attrs}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(atomic_write(self.path, self._needed))
            self._sink = stack.enter_context(Sink(partial))
            self._file = stack.enter_context(h5py.File(self._sink, "w", libver=("v110", "v110")))
            for key, value in self._attrs.items():
                self._file.attrs[key] = _encode(value)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def create_embeddings(self, rows: int, cols: int, width: int, levels: int) -> None:
        """Create `levels` levels of the pyramid over (rows, cols) base tiles of `width` channels."""
        for level in range(levels):
            shape = (rows >> level, cols >> level, width)
            chunks = (min(_CHUNK_TILES, shape[0]), min(_CHUNK_TILES, shape[1]), width)
            self._create(f"embeddings/{level}", shape, "f2", chunks)

    def write_embeddings(self, level: int, row: int, col: int, grid: NDArray[np.floating]) -> None:
        """Store `grid` (rows, cols, d) in one level, its first token at (row, col). UserError when it is not finite."""
        rows, cols = grid.shape[:2]
        half = _finite(
            grid, f"{self.path}: embeddings at level {level}, row {row}, column {col}", LARGEST["embeddings"]
        )
        self._file[f"embeddings/{level}"][row : row + rows, col : col + cols] = half
        self._sink.check()

    def append(
        self,
        scale: str,
        ij: NDArray[np.integer],
        tissue: NDArray[np.floating],
        *,
        valid: NDArray[np.floating] | None = None,
        latents: NDArray[np.floating] | None = None,
        images: Sequence[bytes] | None = None,
    ) -> None:
        """Add n regions: `ij` (n, 2), `tissue` and `valid` (n,), `latents` (n, 3, h, w), `images` n encoded files.

        An empty first call creates the datasets of a scale that has no region.
        """
        self._extend(f"scales/{scale}/ij", np.asarray(ij, np.int32), _CHUNK_ROWS)
        self._extend(f"scales/{scale}/tissue", np.asarray(tissue, np.float32), _CHUNK_ROWS)
        if valid is not None:
            self._extend(f"scales/{scale}/valid", np.asarray(valid, np.float32), _CHUNK_ROWS)
        if latents is not None:
            where = f"{self.path}: latents at {scale} from region {ij[:1].tolist()} on"
            half = _finite(latents, where, LARGEST["latents"])
            self._extend(f"scales/{scale}/latents", half, 1)
        if images is not None:
            start = self._extend(f"scales/{scale}/images", np.frombuffer(b"".join(images), np.uint8), _CHUNK_BYTES)
            ends = start + np.cumsum([len(image) for image in images], dtype=np.int64)
            self._extend(f"scales/{scale}/image_ends", ends, _CHUNK_ROWS)

    def write_unreadable(self, corners_l0: Sequence[tuple[int, int]]) -> None:
        """Store the (x, y) of base tiles that could not be read, if any."""
        if corners_l0:
            self._extend("unreadable", np.array(corners_l0, np.int64), _CHUNK_ROWS)

    def _extend(self, name: str, values: NDArray[Any], chunk: int) -> int:
        """Append `values` along the first axis and return where they start."""
        if name not in self._file:
            shape = values.shape[1:]
            self._create(name, (0, *shape), values.dtype, (chunk, *shape), maxshape=(None, *shape))
        dataset = self._file[name]
        start = len(dataset)
        dataset.resize(start + len(values), axis=0)
        dataset[start:] = values
        self._sink.check()
        return start

    def _create(self, name: str, shape: tuple[int, ...], dtype: Any, chunks: tuple[int, ...], **more: Any) -> None:
        self._file.create_dataset(name, shape, dtype, chunks=chunks, fletcher32=True, track_times=False, **more)


def _finite(values: NDArray[np.floating], what: str, largest: float) -> NDArray[np.float16]:
    """`values` in float16. UserError where one is not finite or larger than `largest`."""
    with np.errstate(over="ignore"):
        half = np.asarray(values, np.float16)
    if not np.isfinite(half).all():
        raise UserError(f"{what}: not finite in float16; the network's weights or the slide's pixels are damaged")
    if half.size and (most := float(np.abs(half).max())) > largest:
        raise UserError(
            f"{what}: values up to {most:g}, expected at most {largest:g}; the network's weights are damaged, or it is "
            "none of this kind"
        )
    return half


def _encode(value: str | int | float | Sequence[str]) -> Any:
    """Text as fixed-length bytes: HDF5 stores variable-length text outside its checksums."""
    if isinstance(value, str):
        return np.bytes_(value.encode(errors="surrogateescape"))  # file names need not be valid text
    return value if isinstance(value, int | float) else np.array([text.encode() for text in value])
