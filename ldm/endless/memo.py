"""Results by key, computed at most once at a time, and kept: the latest in memory, more of them on disk.

    memo = Memo(FolderCache(folder))
    value = memo.get(Key("windows", "5x", 0, 3, -7), make)       # `make` runs unless it is known

Several threads may ask for the same results: the first computes one, the others take another or wait for it.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from threading import Lock
from typing import NamedTuple, Protocol

from torch import Tensor

BYTES = 128 * 2**20


class Key(NamedTuple):
    """What is computed: its kind, scale and group of steps, and where."""

    kind: str
    scale: str
    group: int
    row: int
    col: int


class Store(Protocol):
    """Where results are kept beyond memory."""

    def read(self, key: Key) -> Tensor | None:
        """None where it is not there."""

    def write(self, key: Key, value: Tensor) -> None: ...


class Memo:
    """Tensors by key: at most `limit` bytes in memory, those used longest ago are dropped first."""

    def __init__(self, store: Store | None = None, limit: int = BYTES) -> None:
        self._store, self.limit = store, limit
        self._kept: OrderedDict[Key, Tensor] = OrderedDict()
        self._bytes = 0
        self._made: dict[Key, Future[Tensor]] = {}
        self._lock = Lock()
        self._stopped = False

    def stop(self) -> None:
        """Make nothing more: asking for what is not known raises CancelledError, also in what already runs."""
        self._stopped = True

    def get(self, key: Key, make: Callable[[], Tensor]) -> Tensor:
        """The result of `key`; `make` computes it where it is not known. Nobody may change it."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            pending = self._made.get(key)
            if pending is None:
                own = self._made[key] = Future()
        if pending is not None:
            return pending.result()
        try:
            value = self._read_or_make(key, make)
        except BaseException as error:
            with self._lock:
                del self._made[key]
            own.set_exception(error)
            raise
        with self._lock:
            del self._made[key]
            self._keep(key, value)
        own.set_result(value)
        return value

    def all(self, keys: Sequence[Key], make: Callable[[Key], Tensor]) -> list[Tensor]:
        """The results of `keys`: first those that no other thread is computing."""
        left, found = list(keys), dict[Key, Tensor]()
        while left:
            with self._lock:
                key = next((key for key in left if key not in self._made), left[0])
            left.remove(key)
            found[key] = self.get(key, partial(make, key))
        return [found[key] for key in keys]

    def has(self, key: Key) -> bool:
        """Whether it is in memory."""
        with self._lock:
            return key in self._kept

    def _read_or_make(self, key: Key, make: Callable[[], Tensor]) -> Tensor:
        value = self._store.read(key) if self._store else None
        if value is None:
            if self._stopped:
                raise CancelledError
            value = make()
            if self._store:
                self._store.write(key, value)
        return value

    def _keep(self, key: Key, value: Tensor) -> None:
        self._kept[key] = value
        self._bytes += value.nbytes
        while self._bytes > self.limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
