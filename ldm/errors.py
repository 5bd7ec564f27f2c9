"""One error class for a user's mistake, and the one place that turns it into an exit status.

A message is one line: the thing, the value found, the value expected, the remedy. What the system refuses to do with a
file is told alike. Anything else is a fault of ours, and keeps its traceback.
"""

import errno
import re
import sys
from collections.abc import Callable

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
"""what a user can do about an error of the system"""


class UserError(ValueError):
    """Bad input, told in one line to whoever typed the command."""


def cli(main: Callable[[], object]) -> None:
    """Run `main`; a UserError, or a file that the system refuses, becomes one line on stderr and exit status 2; Ctrl-C
    becomes 130.
    """
    try:
        status = main()
    except UserError as error:
        print(one_line(f"error: {message(error)}"), file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        told = file_error(error)
        if told is None:
            raise
        print(one_line(f"error: {told}"), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as stop:  # it may say how to go on
        print(one_line(f"interrupted; {stop}") if str(stop) else "interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)


def message(error: UserError) -> str:
    """What an error says. Of one in a data loader's process torch tells the traceback, whose last line it is."""
    text = str(error).strip()
    return re.sub(r"^[\w.]+: ", "", text.splitlines()[-1]) if text.startswith("Caught ") else text


def one_line(text: str) -> str:
    """`text` in one line that any terminal can show: names of files need not be text."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())


def file_error(error: OSError) -> str | None:
    """One line about a file, or None where the error names none and is no full disk: then it is not the user's."""
    if error.errno not in FILES or (error.filename is None and error.errno not in FULL_DISK):
        return None
    place = error.filename if error.filename is not None else "output"
    return f"{place}: {FILES[error.errno]}"
