"""Lock a folder for one process: a second one is refused before it changes anything."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from ldm.errors import UserError

NAME = "lock"


@contextmanager
def owned(folder: Path, remedy: str) -> Iterator[None]:
    """Lock `folder`, created if missing, until the context or the process ends, even by kill -9.

    UserError, which ends with `remedy`, when another process holds the lock. It is a POSIX lock (per process), not
    flock: workers that outlive a killed process do not inherit it. On a disk without locks, only a warning is printed.
    """
    path = folder / NAME
    handle = _locked(path, remedy)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        with suppress(OSError):  # a refused command leaves nothing behind
            folder.rmdir()
        os.close(handle)


def _locked(path: Path, remedy: str) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            owner = os.read(handle, 1000).decode(errors="replace") or "another process"
            os.close(handle)
            raise UserError(f"{path.parent}: {owner} works in it; {remedy}") from error
        except OSError as error:
            tqdm.write(f"warning: {path.parent} lies on a disk without locks ({error}); let one process work in it")
            return handle
        if _is_at(path, handle):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} of {platform.node()}".encode(), 0)
            return handle
        os.close(handle)  # its last owner has removed it


def _is_at(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False
