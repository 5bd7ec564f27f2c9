"""One error class for a user's mistake, and the one place that turns it into an exit status.

A message is one line: the thing, the value found, the value expected, the remedy.
"""

import errno
import sys
from collections.abc import Callable

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """Bad input, told in one line to whoever typed the command."""


def cli(main: Callable[[], object]) -> None:
    """Run `main`; a UserError or a full disk becomes one line on stderr and exit status 2, Ctrl-C becomes 130."""
    try:
        status = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        print(f"error: {error.filename or 'output'}: the disk is full; make room, or choose another", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(status if isinstance(status, int) else 0)
