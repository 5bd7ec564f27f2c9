"""The error class for a user's mistake, and its translation into an exit status.

A message is one line: what, the value found, the value expected, the remedy. Errors of the operating system about a
file are reported alike. Any other exception is a bug and keeps its traceback.
"""

import errno
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TextIO

INTERRUPTED, TERMINATED, CLOSED = 130, 143, 141
"""exit status after Ctrl-C, after SIGTERM, and where nobody reads the output any more: 128 + the signal's number"""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
FILES = {
    **dict.fromkeys(FULL_DISK, "the disk is full; make room, or choose another"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "permission denied; change its permissions, or choose another"),
    errno.EROFS: "the disk is read-only; choose another",
    errno.ENOENT: "it does not exist; check the path",
    errno.EEXIST: "it exists already; choose another path",
    errno.EISDIR: "it is a folder, expected a file; choose another path",
    errno.ENOTDIR: "it is, or lies below, a file where a folder is expected; choose another path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.ELOOP: "it is a link to itself; check the path",
    errno.EFBIG: "the file is too large for its disk; choose another",
    errno.EIO: "the disk fails to read or write it; choose another",
    errno.ESTALE: "its network disk is gone; run the same command again",
    errno.EMFILE: "too many files are open; raise the limit (ulimit -n)",
}
"""reason and remedy for errors of the operating system"""


class UserError(ValueError):
    """Bad input, reported to the user in one line."""


def cli(main: Callable[[], object]) -> None:
    """Run `main` as a command, and end the process with its exit status.

    A UserError, or a file that the system refuses, becomes one line on stderr and status 2. Ctrl-C becomes status 130,
    SIGTERM 143: `main` sees both as a KeyboardInterrupt, whose words are printed. Where nobody reads what it prints any
    more, as behind `| head`, it ends without a word with CLOSED.
    """
    with _sigterm_as_ctrl_c() as received:
        try:
            status = _status(main, received)
        except BrokenPipeError as error:
            if error.filename is not None or not _drop_unread():
                raise
            status = CLOSED
    sys.exit(status)


def _status(main: Callable[[], object], received: list[int]) -> int:
    """The exit status of `main`; `received`: the signals that asked it to stop."""
    try:
        status = main()
        _flush()
        return status if isinstance(status, int) else 0
    except SystemExit:
        _flush()
        raise
    except UserError as error:
        print(one_line(f"error: {message(error)}"), file=sys.stderr)
        return 2
    except OSError as error:
        told = file_error(error)
        if told is None:
            raise
        print(one_line(f"error: {told}"), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:  # its text may say how to continue
        print(one_line(f"interrupted; {stop}") if str(stop) else "interrupted", file=sys.stderr)
        return TERMINATED if received else INTERRUPTED


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Within, SIGTERM, as schedulers send it, is a KeyboardInterrupt; yields the list of those received.

    A second one changes nothing: what the first began, as saving, may take a while. The processes that a command
    starts, by a fork or through Fabric, keep the system's action.
    """
    received: list[int] = []
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        elif not received:
            received.append(number)
            raise KeyboardInterrupt

    if os.environ.get("LOCAL_RANK", "0") != "0":
        yield received
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def when_stopped(words: str) -> Iterator[None]:
    """Around a command, or its decorator: `words` say how to go on after a KeyboardInterrupt that does not say it."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or words) from stop


def _flush() -> None:
    """BrokenPipeError now rather than when Python ends, which would tell it."""
    if sys.stdout is not None:
        sys.stdout.flush()


def _drop_unread() -> bool:
    """Send what is left of the standard streams that nobody reads any more to nowhere; whether there are any."""
    unread = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _is_unread(stream)]
    for stream in unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return bool(unread)


def _is_unread(stream: TextIO) -> bool:
    """Whether `stream` is a pipe whose reader has ended."""
    try:
        if not hasattr(select, "poll"):  # Windows
            stream.flush()
            return False
        poll = select.poll()
        poll.register(stream.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except BrokenPipeError:
        return True
    except (OSError, ValueError):  # no file of the system
        return False


def message(error: UserError) -> str:
    """The message of an error; for one in a data loader's process, the last line of the traceback from torch."""
    text = str(error).strip()
    return re.sub(r"^[\w.]+: ", "", text.splitlines()[-1]) if text.startswith("Caught ") else text


def one_line(text: str) -> str:
    """`text` in one printable line: names of files may contain any bytes."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())


def file_error(error: OSError) -> str | None:
    """One line about a file; None where the error names no file and is not a full disk: then it is a bug."""
    if error.errno not in FILES or (error.filename is None and error.errno not in FULL_DISK):
        return None
    place = error.filename if error.filename is not None else "output"
    return f"{place}: {FILES[error.errno]}"
