"""Processes of their own in milliseconds: forked from a server that has imported what takes seconds.

A process has one such server, with the modules that were named when it started (multiprocessing.forkserver); one that
was started without them makes every fork import them again. So all tests share this list.
"""

from multiprocessing import forkserver, get_context

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
