"""Atomic writes, checksums and temporary files, also on disks shared by several machines."""

import hashlib
import io
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from ldm.errors import FILES, FULL_DISK, UserError

FORGOTTEN_S = 86_400.0
"""a temporary file of another machine that was not modified for so long is a leftover"""


NAME_BYTES, PATH_BYTES = 200, 3800
"""longest name and path; below the usual 255 and 4096, as temporary files have longer names"""


class DiskFull(UserError):
    """No space for a file; an existing file of that name is unchanged."""


@contextmanager
def atomic_write(path: str | Path, needed: Callable[[], int] | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on success it is synced to disk and renamed to `path`.

    When the body fails, the temporary file is removed and an existing file stays unchanged. Raises DiskFull when there
    is no space; `needed` returns the file's size in bytes, if known.
    """
    path = Path(path)
    with report_disk_full(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.{writer()}.partial")
        try:
            yield partial
            partial.chmod(0o644)
            _sync(partial)
            os.replace(partial, path)
            _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


@contextmanager
def staged(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Give a temporary folder in `folder` to write several files to, which belong together.

    On success they take the place of all files called `names` in `folder`, in the order in which those are given; when
    the body fails, or is killed, `folder` is as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".staged.*.partial"):
        if is_gone(left.name.split(".")[-2]):
            shutil.rmtree(left, ignore_errors=True)
    stage = folder / f".staged.{writer()}.partial"
    with report_disk_full(stage):
        stage.mkdir()
    try:
        yield stage
        for name in names:
            if (stage / name).exists():
                os.replace(stage / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        _sync(folder)
    except UserError as error:  # which names a file where it was to be
        raise type(error)(str(error).replace(f"{stage.name}{os.sep}", "")) from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` in UTF-8 to `path`, atomically. DiskFull as `atomic_write`."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def check_inputs(given: Mapping[str, str | Path | None]) -> None:
    """UserError for a file or folder that does not exist, by the option that names it; to be called before any work."""
    for option, path in given.items():
        try:
            there = path is None or Path(path).exists()
        except (OSError, ValueError):  # a name that no file can have
            there = False
        if not there:
            raise UserError(f"{option}: {str(path)[:200]} does not exist; correct the path")


def check_destination(path: str | Path, folder: bool) -> None:
    """UserError where `path` could not be written as a file, or with `folder` as a folder. Creates nothing.

    Free space is not checked, since the size is not known yet.
    """
    path = Path(path)
    kind = "folder" if folder else "file"
    try:
        for part in [path.absolute(), *path.absolute().parents]:
            if os.path.lexists(part):
                break
        if part == path.absolute() and part.exists() and part.is_dir() != folder:
            raise UserError(f"{path}: is a {'file' if folder else 'folder'}, expected a {kind}; choose another path")
        room = part if part.is_dir() else part.parent
        if part != path.absolute() and not part.is_dir():
            raise UserError(f"{path}: {part} is no folder; choose another path")
        names = [name for name in path.absolute().parts if len(os.fsencode(name)) > NAME_BYTES]
        if names or len(os.fsencode(path.absolute())) > PATH_BYTES:
            raise UserError(f"{str(path)[:80]}...: the name is too long; choose a shorter one")
        with tempfile.TemporaryFile(dir=room):
            pass
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise UserError(f"{str(path)[:80]}: {FILES.get(error.errno or 0, error.strerror)}") from error


class Sink(io.FileIO):
    """An output file for libraries that crash, or hide the reason, when a write fails or is interrupted by a signal.

    The first failure is stored in `error` and further writes are ignored; the end of the context raises it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            left = memoryview(data).cast("B")
            while left and self.error is None:
                left = left[super().write(left) :]
        except BaseException as error:
            self.error = error
        return memoryview(data).nbytes

    def check(self) -> None:
        """Raise the stored failure, if any."""
        if self.error is not None:
            raise self.error

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is None:
            self.check()


@contextmanager
def report_disk_full(path: Path, needed: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn the error of a full disk into DiskFull, which names `path` and the bytes it needs."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise disk_full(path, needed() if needed else None) from error


def disk_full(path: Path, needed: int | None) -> DiskFull:
    """The error of a full disk; `needed` bytes for the file, None if unknown."""
    room = shutil.disk_usage(path.parent if path.parent.exists() else ".").free
    takes = "more" if needed is None else f"{needed:,} bytes"
    return DiskFull(
        f"{path}: the disk is full: it needs {takes}, {room:,} bytes are free; make room or choose another folder, "
        "then run the same command again"
    )


@cache
def _machine() -> str:
    """Id of the host and container, whose processes are visible to this one."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


def _started(process: int) -> str:
    """Start time of a process of this machine in ticks; empty if it does not exist or the time is unknown."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def writer() -> str:
    """Unique name of this process among all that write to a shared disk."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid())}"


def is_gone(name: str) -> bool:
    """Whether `name`, a `writer`, was a process of this machine that has ended; False for other machines."""
    machine, _, process = name.partition("-")
    number, _, started = process.partition("-")
    return machine == _machine() and number.isdigit() and _started(int(number)) != started


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left anywhere in `folder`."""
    for path in folder.rglob(".*.partial"):
        with suppress(FileNotFoundError):
            if is_gone(path.name.split(".")[-2]) or time.time() - path.stat().st_mtime > FORGOTTEN_S:
                path.unlink()


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
    """Path of a file's checksum: <path>.sha256, in the format of `sha256sum`."""
    return Path(f"{path}.sha256")


def write_sidecar(path: str | Path) -> str:
    """Write the checksum beside `path`; returns it."""
    digest = sha256(path)
    write_text(sidecar(path), f"{digest}  {Path(path).name}\n")
    return digest


def intact(path: str | Path) -> bool:
    """Whether `path` matches the checksum beside it; False without a checksum."""
    beside = sidecar(path)
    return beside.is_file() and beside.read_bytes().split()[:1] == [sha256(path).encode()]
