"""Asynchronous requests to the networks, in this process or in the one that owns the GPU.

The preparation of a slide requests embeddings or latents of tiles, continues reading, and uses the answers in the order
of the requests. So a prepared file depends neither on timing nor on other processes.

Shapes: n tiles; p tile_px; d channels of an embedding; h, w of a latent.
"""

import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

ENCODER, AUTOENCODER = "encoder", "autoencoder"
AHEAD_TILES = 512
"""most tiles with pending answers while reading continues"""

Tiles = NDArray[np.uint8]
Answer = Callable[[], NDArray[np.float32]]
"""waits for the answer and returns it"""


class WorkStopped(KeyboardInterrupt):
    """This process was told to end."""


class ConnectionClosed(WorkStopped):
    """The process at the other end of a channel has ended or closed the channel."""


class NetworksIdentity(NamedTuple):
    """Ids of the networks."""

    encoder: str
    width: int
    """channels of an embedding"""
    autoencoder: str | None
    """None: there are no latents"""
    latents_id: str | None = None
    """of that autoencoder"""


class Networks(Protocol):
    """The interface for requests to the networks."""

    identity: NetworksIdentity

    def ask(self, network: str, tiles: Tiles) -> Answer:
        """uint8 (n, p, p, 3) -> of the ENCODER (n, d), of the AUTOENCODER unquantised latents (n, 3, h, w), float32."""

    def forget(self) -> None:
        """Drop the pending requests of a slide that failed."""


class InOrder:
    """Uses answers in the order of their requests, and limits the number of pending ones."""

    def __init__(self, limit: int = AHEAD_TILES) -> None:
        self._limit, self._tiles = limit, 0
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()

    def later(self, tiles: int, use: Callable[[], None]) -> None:
        """Queue `use`, which waits for the answer for so many `tiles`, after the earlier ones."""
        self._waiting.append((tiles, use))
        self._tiles += tiles
        while self._tiles > self._limit:
            self._next()

    def finish(self) -> None:
        """Use all pending answers."""
        while self._waiting:
            self._next()

    def _next(self) -> None:
        tiles, use = self._waiting.popleft()
        self._tiles -= tiles
        use()


@dataclass(frozen=True)
class Question:
    """Header of a reader's request, sent before the tiles."""

    number: int
    network: str


class Channel:
    """A pipe for objects, and for arrays without pickling. Raises ConnectionClosed when the other end is gone."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def send(self, head: Any, array: NDArray[Any] | None = None) -> None:
        try:
            self._pipe.send((head, None if array is None else (array.dtype.str, array.shape)))
            if array is not None:
                left = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                while left:
                    left = left[os.write(self._pipe.fileno(), left) :]
        except OSError as error:
            raise ConnectionClosed from error

    def receive(self) -> tuple[Any, NDArray[Any] | None]:
        try:
            head, layout = self._pipe.recv()
            if layout is None:
                return head, None
            array: NDArray[Any] = np.empty(layout[1], layout[0])
            left = array.reshape(-1).view(np.uint8).data
            while left:
                count = os.readv(self._pipe.fileno(), [left])
                if count == 0:
                    raise EOFError
                left = left[count:]
            return head, array
        except (OSError, EOFError) as error:
            raise ConnectionClosed from error

    def shutdown(self) -> None:
        """Shut the channel down; both ends then raise ConnectionClosed, also while waiting."""
        with socket.socket(fileno=os.dup(self._pipe.fileno())) as line, suppress(OSError):
            line.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._pipe.close()


class Remote:
    """Requests over a channel."""

    def __init__(self, channel: Channel, identity: NetworksIdentity) -> None:
        self.identity, self._channel = identity, channel
        self._asked = 0
        self._open: set[int] = set()
        self._answers: dict[int, NDArray[np.float32]] = {}

    def ask(self, network: str, tiles: Tiles) -> Answer:
        number = self._asked
        self._asked += 1
        self._open.add(number)
        self._channel.send(Question(number, network), tiles)

        def answer() -> NDArray[np.float32]:
            while number in self._open:
                self._receive()
            return self._answers.pop(number)

        return answer

    def forget(self) -> None:
        while self._open:
            self._receive()
        self._answers.clear()

    def _receive(self) -> None:
        number, array = self._channel.receive()
        assert array is not None
        self._open.remove(number)
        self._answers[number] = array
