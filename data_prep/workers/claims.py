"""Claims: distribute slides over several processes, jobs or nodes that share a cohort.

A claim is a file beside the slide's target, created exclusively by one process, which touches it while it lives. A
claim is dead when its owner was a process of this machine that has ended, or when another process has observed it
unchanged for DEAD_S by its own clock (clocks of machines differ). Dead claims are taken over. If two processes prepare
one slide after all, no harm is done: their files are equal and written atomically.
"""

import os
import platform
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Generic, Protocol, Self, TypeVar

from ldm.support.files import is_gone, report_disk_full, writer

HEARTBEAT_S, DEAD_S, POLL_S = 20.0, 300.0, 2.0


class Claims:
    """The claims of this process; released when the context ends."""

    def __init__(self, heartbeat_s: float = HEARTBEAT_S, dead_s: float = DEAD_S) -> None:
        self._heartbeat_s, self._dead_s = heartbeat_s, dead_s
        self._mine: set[Path] = set()
        self._seen: dict[Path, tuple[str, float]] = {}
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        threading.Thread(target=self._beat, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for claim in list(self._mine):
            self._give_up(claim)

    def take(self, target: Path) -> bool:
        """Claim the file `target`, and remove leftovers of a killed process; False when another process has it."""
        claim = claim_of(target)
        with report_disk_full(claim):
            claim.parent.mkdir(parents=True, exist_ok=True)
            while not self._create(claim):
                if not self._dead(claim):
                    return False
                claim.unlink(missing_ok=True)
        for leftover in target.parent.glob(f".{escape(target.name)}.*.partial"):
            leftover.unlink(missing_ok=True)
        return True

    def release(self, target: Path) -> None:
        """Release a claim."""
        self._give_up(claim_of(target))

    def _create(self, claim: Path) -> bool:
        try:
            with open(claim, "x") as file:
                self._mine.add(claim)
                file.write(f"{writer()} {platform.node()}\n")
        except FileExistsError:
            return False
        except OSError:
            self._mine.discard(claim)
            claim.unlink(missing_ok=True)
            raise
        return True

    def _dead(self, claim: Path) -> bool:
        try:
            owner, stamp = claim.read_text(), claim.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        if owner and is_gone(owner.split()[0]):
            return True
        state, now = f"{owner} {stamp}", time.monotonic()
        before, since = self._seen.setdefault(claim, (state, now))
        if before != state:
            self._seen[claim] = (state, now)
            return False
        return now - since > self._dead_s

    def _give_up(self, claim: Path) -> None:
        self._mine.discard(claim)
        with suppress(OSError):
            if claim.read_text().startswith(writer()):
                claim.unlink()

    def _beat(self) -> None:
        while not self._ended.wait(self._heartbeat_s):
            for claim in list(self._mine):
                with suppress(OSError):
                    os.utime(claim)


def claim_of(target: Path) -> Path:
    """Path of the claim on a file."""
    return target.with_name(f".{target.name}.claim")


class Claimable(Protocol):
    """A task with a target file, which can be claimed."""

    @property
    def target(self) -> Path: ...


T = TypeVar("T", bound=Claimable)


class TaskQueue(Generic[T]):
    """Gives unclaimed tasks to any number of threads; ends when every task has been claimed once."""

    def __init__(self, tasks: Sequence[T], claims: Claims, poll_s: float = POLL_S) -> None:
        self._left, self._claims, self._poll_s = list(tasks), claims, poll_s
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def __iter__(self) -> Iterator[T]:
        while (task := self._next()) is not None:
            yield task

    def done(self, task: T) -> None:
        """Report that `task` is finished."""
        self._claims.release(task.target)

    def stop(self) -> None:
        """Give out no more tasks."""
        self._stopped.set()

    def _next(self) -> T | None:
        with self._lock:
            while self._left and not self._stopped.is_set():
                for task in self._left:
                    if self._claims.take(task.target):
                        self._left.remove(task)
                        return task
                self._stopped.wait(self._poll_s)
        return None
