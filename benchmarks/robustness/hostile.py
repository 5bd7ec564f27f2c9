"""R6: hostile inputs that try to run code, read or write elsewhere, or exhaust memory; each is refused in one line.

Every attack runs in a separate process, whose audit events show what it did: processes started, DNS lookups,
connections, files written outside its folder; payloads leave a mark file when they run.
"""

import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.robustness import hostile_configs, hostile_files, hostile_names
from benchmarks.robustness.forking import answer_of, ending

ATTACKS: dict[str, Callable[[Path], None]] = {
    **hostile_files.ATTACKS,
    **hostile_configs.ATTACKS,
    **hostile_names.ATTACKS,
}
GOOD = ("refused", "harmless")
SECONDS = 120
MEMORY_BYTES = 8 * 2**30
"""limit of an attack's address space, beyond that of the libraries"""
RUNS = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.getaddrinfo"}
WRITES = {"os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0, "os.rename": 1, "os.symlink": 1, "os.link": 1}
"""audit events that write, and their argument with the path"""


class Attempt:
    """Records actions of an attack that reading a file never needs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen = os.path.realpath(folder), ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in RUNS:
            self.seen = self.seen or f"executed: {event} {arguments}"
        elif event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            self._written(arguments[0])
        if event in WRITES:
            self._written(arguments[WRITES[event]])

    def _written(self, path: Any) -> None:
        if isinstance(path, int) or os.fsdecode(path).endswith(("__pycache__", ".pyc", os.devnull)):
            return
        if not os.path.realpath(os.fsdecode(path)).startswith(self.folder):
            self.seen = self.seen or f"escaped: wrote {os.fsdecode(path)}"


def outcomes(folder: Path, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Name and outcome of these attacks, each in a folder of its own."""
    for number, name in enumerate(names):
        place = folder / f"{number}"
        place.mkdir()
        yield name, answer_of(SECONDS, _attempt, name, place)


def _attempt(name: str, folder: Path) -> str:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
    os.chdir(folder)
    watch = Attempt(folder)
    sys.addaudithook(watch)
    outcome = ending(lambda: (ATTACKS[name](folder), "harmless")[1])
    if (folder / hostile_files.MARK).exists():
        outcome = "executed: its payload"
    return watch.seen or outcome


def measure(folder: Path, count: int) -> str:
    """The first `count` attacks."""
    names = list(ATTACKS)[:count]
    found = dict(tqdm(outcomes(folder, names), total=len(names), desc="hostile", unit="input"))
    counts = Counter(found.values())
    bad = sum(outcome.startswith(("executed", "escaped")) for outcome in found.values())
    rest = [f"{name}: {outcome}" for name, outcome in found.items() if outcome not in GOOD]
    good = ", ".join(f"{counts[outcome]} {outcome}" for outcome in GOOD)
    return "; ".join([f"{bad} of {len(found)} executed or escaped ({good})", *rest])
