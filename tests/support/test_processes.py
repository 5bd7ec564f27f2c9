"""Processes that share work end together."""

import os
import select
import time

from ldm.support.processes import end_with


def test_a_process_does_not_outlive_the_one_that_started_it() -> None:
    closed, held = os.pipe()
    first = os.fork()
    if not first:  # it starts another and ends
        own = os.getpid()
        if not os.fork():
            end_with(own, 0.01)
            time.sleep(60)
        os._exit(0)
    os.close(held)
    os.waitpid(first, 0)
    assert select.select([closed], [], [], 30)[0], "the second one still holds its end of the pipe"
    os.close(closed)
