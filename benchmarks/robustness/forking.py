"""Fast separate processes: forked from a server that has already imported the slow modules.

A process has only one fork server, with the modules named when it started (multiprocessing.forkserver), so all tests
share this list.
"""

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import forkserver, get_context
from multiprocessing.connection import Connection
from typing import Any

from ldm.errors import UserError

CONTEXT = get_context("forkserver")
PRELOADED = (
    "ldm.cli.train",
    "data_prep.preparation",
    "data_prep.workers.reader_processes",
    "ldm.commands.train",
    "ldm.commands.sample",
    "benchmarks.robustness.flips",
    "benchmarks.robustness.hostile",
    "benchmarks.robustness.resume",
)


def start_server() -> None:
    """Start the server, unless there is one."""
    CONTEXT.set_forkserver_preload(list(PRELOADED))
    forkserver.ensure_running()


def answer_of(seconds: float, work: Callable[..., str], *given: Any) -> str:
    """What `work(*given)` returns in a process of its own; "hung" after `seconds`, "crashed" where it says nothing."""
    start_server()
    ours, theirs = CONTEXT.Pipe(duplex=False)
    process = CONTEXT.Process(target=_send, args=(theirs, work, given))
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(seconds) else "hung"
    except EOFError:
        return "crashed"
    finally:
        process.kill()
        process.join()


def _send(result: Connection, work: Callable[..., str], given: tuple[Any, ...]) -> None:
    result.send(work(*given))


def ending(work: Callable[[], str]) -> str:
    """What `work` returns, "refused" in one line, or the error that a user would see as a traceback; prints nothing."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return work()
    except UserError as error:
        return "refused" if "\n" not in str(error) else f"refused in many lines: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
