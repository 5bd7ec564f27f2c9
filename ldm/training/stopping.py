"""Signals that stop training: of a scheduler (SIGTERM, SIGUSR1), or Ctrl-C (SIGINT).

During training, a signal takes effect at the end of the step, which is saved; before and after, it ends the command
immediately.
"""

import signal
import sys
from types import FrameType
from typing import Any

RESUMABLE, INTERRUPTED = 75, 130
"""exit status after a scheduler's signal, after Ctrl-C"""


class Stopped(BaseException):
    """Training was stopped by a signal. Not a KeyboardInterrupt, for which Lightning exits with another status."""

    def __init__(self, number: int | None) -> None:
        """`number`: the signal, None when another process of the run received it."""
        super().__init__(number)
        self.status = INTERRUPTED if number == signal.SIGINT else RESUMABLE


class StopSignals:
    """Handles the signals within its context. SIGINT keeps its handler until `listen` includes it."""

    def __init__(self) -> None:
        self.number: int | None = None
        """the last signal that was received"""
        self.deferred = False
        """whether signals are deferred: they only set `number`"""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self.listen(signal.SIGTERM, signal.SIGUSR1)
        return self

    def listen(self, *numbers: int) -> None:
        """Handle these signals from now on; SIGINT stays ignored where it was, as under nohup."""
        for number in numbers:
            if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._receive)

    def defer(self) -> None:
        """Defer signals from now on, and handle all of them, also those for which Lightning has set handlers."""
        self.listen(signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        self.deferred = True

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again = self.number == signal.SIGINT == number
        self.number = number
        if again or not self.deferred:
            raise Stopped(number)
        if number == signal.SIGINT:
            print("\nstopping when this step is done and saved; Ctrl-C again stops at once", file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
