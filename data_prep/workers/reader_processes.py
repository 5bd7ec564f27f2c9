"""Reader processes: each prepares one slide after the other and sends its tiles to the process that owns the networks.

    this process            thread of a reader           reader process
    answer questions   <-   pass on its questions   <-   read, cut, ask ... write the file
                       ->   hand it the next slide  ->

The main thread answers pending requests of all slides together, so the networks are busy while there are tiles. Readers
limit how far they read ahead (embedding.py). When a reader dies, its slide fails and the reader is replaced. When the
parent dies, readers end because their pipe breaks, and leave no files of unfinished slides.
"""

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, Self

from data_prep.preparation_config import PrepareConfig
from data_prep.report.outcomes import Records, SlideReport
from data_prep.slides.find import Task
from data_prep.workers.attempt import attempt, failed
from data_prep.workers.claims import TaskQueue
from data_prep.workers.embedding import Channel, ConnectionClosed, NetworksIdentity, Remote, WorkStopped
from data_prep.workers.networks import LocalNetworks, Request
from ldm.support.files import DiskFull

CONTEXT = get_context("forkserver")
CONTEXT.set_forkserver_preload(["__main__", "data_prep.workers.reader_processes"])
PATIENCE_S = 30.0


STOPS = (signal.SIGTERM, signal.SIGUSR1)
"""termination signals of schedulers"""


def raise_stopped(number: int, frame: Any) -> None:
    """Signal handler: ignores further signals and raises WorkStopped."""
    for stop in STOPS:
        signal.signal(stop, signal.SIG_IGN)
    raise WorkStopped


def read_slides(pipe: Connection, config: PrepareConfig, identity: NetworksIdentity) -> None:
    """Main function of a reader process. Signals are handled by the parent, which closes the channel."""
    for stop in (signal.SIGINT, *STOPS):
        signal.signal(stop, signal.SIG_IGN)
    channel = Channel(pipe)
    networks = Remote(channel, identity)
    with suppress(ConnectionClosed):
        while (task := channel.receive()[0]) is not None:
            try:
                channel.send(attempt(task, config, networks, partial(_send_share, channel, task.slide_id)))
            except DiskFull as error:
                channel.send(error)


def _send_share(channel: Channel, slide_id: str, share: float) -> None:
    channel.send(Share(slide_id, share))


class Share(NamedTuple):
    """Progress of a slide, 0 to 1."""

    slide_id: str
    share: float


class Asked(NamedTuple):
    """A reader's request, and the channel for the answer."""

    channel: Channel
    number: int
    request: Request


class ReaderProcess:
    """A reader process, seen from its parent."""

    def __init__(self, config: PrepareConfig, identity: NetworksIdentity) -> None:
        pipe, theirs = CONTEXT.Pipe()
        self.channel = Channel(pipe)
        self.process = CONTEXT.Process(target=read_slides, args=(theirs, config, identity), daemon=True)
        self.process.start()
        theirs.close()

    def prepare(self, task: Task, inform: Callable[[Any], None]) -> SlideReport:
        """Have a slide prepared; its messages are passed to `inform`. ConnectionClosed when the reader dies."""
        self.channel.send(task)
        while True:
            head, array = self.channel.receive()
            if isinstance(head, SlideReport):
                return head
            if isinstance(head, DiskFull):
                raise head
            inform(head if array is None else Asked(self.channel, head.number, Request(head.network, array)))

    def end(self, immediately: bool = False) -> int | None:
        """End the process after its slide or, with `immediately`, during it; returns its exit status."""
        if immediately:
            self.channel.shutdown()
        else:
            with suppress(ConnectionClosed):
                self.channel.send(None)
        self.process.join(PATIENCE_S)
        self.process.kill()
        self.process.join()
        self.channel.close()
        return self.process.exitcode


class Readers:
    """`config.workers` reader processes, each with a thread here; their messages are in `events`."""

    def __init__(
        self, config: PrepareConfig, identity: NetworksIdentity, work: TaskQueue[Task], records: Records
    ) -> None:
        self.running = config.workers
        self._config, self._identity, self._work, self._records = config, identity, work, records
        self._events: SimpleQueue[Asked | SlideReport | Share | BaseException | None] = SimpleQueue()
        self._readers: set[ReaderProcess] = set()
        self._threads = [threading.Thread(target=self._attend, daemon=True) for _ in range(config.workers)]
        self._stopping = False

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._work.stop()
        for reader in list(self._readers):
            reader.channel.shutdown()
        until = time.monotonic() + PATIENCE_S
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        for reader in list(self._readers):  # a process inside a library call does not react
            reader.process.kill()
        for thread in self._threads:
            thread.join()

    def events(self, wait: bool) -> Iterator[Asked | SlideReport | Share]:
        """Messages received so far, waiting for the first if `wait`; raises exceptions of the threads."""
        with suppress(Empty):
            while self.running:
                event = self._events.get(block=wait)
                wait = False
                if isinstance(event, BaseException):
                    raise event
                if event is None:
                    self.running -= 1
                else:
                    yield event

    def _attend(self) -> None:
        """Main function of a thread: gives slides to its reader, which is replaced when it dies."""
        reader: ReaderProcess | None = None
        try:
            for task in self._work:
                report = self._records.news(task.slide_id)
                while report is None and not self._stopping:
                    reader = reader or self._start()
                    report, reader = self._prepared(task, reader)
                self._work.done(task)
                if report is not None:
                    self._events.put(report)
        except BaseException as error:
            self._events.put(error)
        finally:
            if reader is not None:
                self._end(reader)
            self._events.put(None)

    def _start(self) -> ReaderProcess:
        reader = ReaderProcess(self._config, self._identity)
        self._readers.add(reader)
        if self._stopping:  # it was not yet in the list of readers to stop
            reader.channel.shutdown()
        return reader

    def _end(self, reader: ReaderProcess) -> int | None:
        self._readers.discard(reader)
        return reader.end(immediately=self._stopping)

    def _prepared(self, task: Task, reader: ReaderProcess) -> tuple[SlideReport | None, ReaderProcess | None]:
        """The report of a slide, and the reader if it still lives; no report when all are stopped."""
        started = time.perf_counter()
        try:
            return reader.prepare(task, self._events.put), reader
        except ConnectionClosed:
            status = self._end(reader)
        if self._stopping:
            return None, None
        why = "out of memory, or a fault in a decoder; prepare it alone with --workers 0, or take it out"
        report = failed(task, f"{task.path}: the process that read it died (status {status}): {why}", started)
        self._records.write(report)
        return report, None


def serve(
    networks: LocalNetworks,
    config: PrepareConfig,
    work: TaskQueue[Task],
    records: Records,
    progress: Callable[[str, float], None],
) -> Iterator[SlideReport]:
    """Prepare slides with `config.workers` readers and answer their requests; yields reports as slides finish."""
    asked: deque[Asked] = deque()
    with Readers(config, networks.identity, work, records) as readers:
        while readers.running or asked:
            for event in readers.events(wait=not asked):
                if isinstance(event, Asked):
                    asked.append(event)
                elif isinstance(event, SlideReport):
                    yield event
                else:
                    progress(*event)
            _answer(networks, asked)


def _answer(networks: LocalNetworks, asked: deque[Asked]) -> None:
    """Answer the oldest requests, about `batch_size` tiles."""
    chosen: list[Asked] = []
    while asked and sum(len(question.request.tiles) for question in chosen) < networks.batch_size:
        chosen.append(asked.popleft())
    networks.run([question.request for question in chosen])
    for channel, number, request in chosen:
        with suppress(ConnectionClosed):  # its reader has died
            channel.send(number, request.answer)
