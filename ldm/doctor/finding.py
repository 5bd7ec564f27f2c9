"""A finding: one line and its severity. A check is an iterator of findings that never raises."""

import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ldm.errors import UserError


class Finding(NamedTuple):
    """`told` is the message: what was found and, for a warning or failure, the remedy."""

    status: str
    """ok; warn: may be intended; FAIL: a command will fail on it"""
    told: str

    def __str__(self) -> str:
        return f"{self.status:4}  {self.told}"


def ok(told: str) -> Finding:
    return Finding("ok", told)


def warn(told: str) -> Finding:
    return Finding("warn", told)


def fail(told: str) -> Finding:
    return Finding("FAIL", told)


def checked(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of `check`; an exception becomes the last finding."""
    try:
        yield from check()
    except UserError as error:
        yield fail(str(error))
    except ImportError as error:
        yield fail(f"{what}: {error.name or 'a module'} cannot be imported ({one_line(error)}); pip install -e .")
    except MemoryError:
        yield fail(f"{what}: memory is short; free some, or run this on a larger machine")
    except Exception as error:  # the user is already looking for a fault
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        yield fail(f"{what}: the check itself failed at {where} ({type(error).__name__}: {one_line(error)})")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
