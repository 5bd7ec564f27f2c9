"""Files that are whole under their name or not there at all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """A temporary path in the folder of `path` to write to; on success it is synced to disk and takes the name.

    When the body fails, the temporary file goes and whatever stood under the name stays untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.chmod(0o644)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sidecar(path: str | Path) -> Path:
    """Where the checksum of a file stands: <path>.sha256, in the format of `sha256sum`."""
    return Path(f"{path}.sha256")


def write_sidecar(path: str | Path) -> str:
    """Write the checksum beside `path`; returns it."""
    digest = sha256(path)
    with whole(sidecar(path)) as partial:
        partial.write_text(f"{digest}  {Path(path).name}\n")
    return digest


def intact(path: str | Path) -> bool:
    """Whether `path` has the checksum that stands beside it; a file without one is not known to be intact."""
    beside = sidecar(path)
    return beside.is_file() and beside.read_bytes().split()[:1] == [sha256(path).encode()]
