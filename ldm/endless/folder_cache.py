"""Results in a folder, one safetensors file each; when they exceed a size, those used longest ago are deleted.

A file is written atomically and holds a checksum: one that is damaged, or of another key or world, is
not there. A full or
read-only disk is reported once, and nothing is kept from then on.
"""

import os
import sys
import zlib
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from threading import Lock

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ldm.endless.memo import Key
from ldm.errors import UserError
from ldm.support.files import atomic_write, remove_leftovers

SUFFIX = ".safetensors"
BYTES = 2 * 2**30
CHECKSUM = "crc32"


class FolderCache:
    """Tensors of one world in the folder `root`/`name`; `limit` bytes for all worlds in `root`."""

    def __init__(self, root: Path, name: str, limit: int = BYTES) -> None:
        self._root, self._folder, self._limit = root, root / name, limit
        self._lock, self._refused = Lock(), False
        remove_leftovers(root)
        self._sizes: OrderedDict[Path, int] = OrderedDict(_used_longest_ago_first(root))
        self._bytes = sum(self._sizes.values())

    def read(self, key: Key) -> Tensor | None:
        """The tensor of a key; None where there is none, or it is damaged."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                value: Tensor = file.get_tensor("value")
                if (file.metadata() or {}).get(CHECKSUM) != self._checksum(key, value):
                    return None
        except (OSError, SafetensorError, ValueError, TypeError):  # TypeError: a type of number that NumPy lacks
            return None
        with self._lock, suppress(OSError):
            os.utime(path)
            if path in self._sizes:
                self._sizes.move_to_end(path)
        return value

    def write(self, key: Key, value: Tensor) -> None:
        """Keep a tensor."""
        if self._refused:
            return
        path, value = self._path(key), value.cpu().contiguous()
        try:
            with atomic_write(path) as partial:
                save_file({"value": value}, partial, {CHECKSUM: self._checksum(key, value)})
            size = path.stat().st_size
        except (OSError, UserError, SafetensorError) as error:
            self._refused = True
            print(f"{self._folder}: nothing more is kept there ({error})", file=sys.stderr)
            return
        with self._lock:
            self._bytes += size - self._sizes.pop(path, 0)
            self._sizes[path] = size
            while self._bytes > self._limit and len(self._sizes) > 1:
                old, old_size = self._sizes.popitem(last=False)
                self._bytes -= old_size
                with suppress(OSError):
                    old.unlink()

    def _path(self, key: Key) -> Path:
        return self._folder / ("_".join(map(str, key)) + SUFFIX)

    def _checksum(self, key: Key, value: Tensor) -> str:
        """Of the value, its key and its world, so that a file that was moved here is not taken."""
        header = f"{self._folder.name} {key} {value.dtype} {tuple(value.shape)}".encode()
        return f"{zlib.crc32(value.numpy().tobytes(), zlib.crc32(header)):08x}"


def _used_longest_ago_first(root: Path) -> list[tuple[Path, int]]:
    found = []
    for path in root.glob(f"*/*{SUFFIX}"):
        with suppress(OSError):
            stat = path.stat()
            found.append((stat.st_mtime_ns, path, stat.st_size))
    return [(path, size) for _, path, size in sorted(found)]
