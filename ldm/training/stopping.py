"""How training is asked to stop: by a scheduler (SIGTERM, SIGUSR1) or by Ctrl-C (SIGINT).

While it trains, a request waits for the end of the step, which is saved; before and after, it ends the command at once.
"""

import signal
import sys
from types import FrameType
from typing import Any

RESUMABLE, INTERRUPTED = 75, 130
"""exit status after a scheduler's signal, after Ctrl-C"""


class Stopped(BaseException):
    """A signal asked for a stop. No KeyboardInterrupt: Lightning would end the process with a status of its own."""

    def __init__(self, number: int | None) -> None:
        """`number`: the signal, None when another process of the run received it."""
        super().__init__(number)
        self.status = INTERRUPTED if number == signal.SIGINT else RESUMABLE


class StopSignals:
    """Listens for the signals within its context. SIGINT keeps its handler until `listen` asks for it too."""

    def __init__(self) -> None:
        self.number: int | None = None
        """the last signal that was received"""
        self.deferred = False
        """whether requests wait, for whoever looks at `number`"""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        self.listen(signal.SIGTERM, signal.SIGUSR1)
        return self

    def listen(self, *numbers: int) -> None:
        """Handle these signals from now on, whoever handled them; SIGINT stays ignored where it is, as by nohup."""
        for number in numbers:
            if number != signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                self._before.setdefault(number, signal.getsignal(number))
                signal.signal(number, self._receive)

    def defer(self) -> None:
        """From here on requests wait; all signals are heard, also where Lightning put handlers of its own."""
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
