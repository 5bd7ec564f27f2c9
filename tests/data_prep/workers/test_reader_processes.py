"""Reader processes end when they are told to, also one that does not react."""

import threading
from pathlib import Path
from typing import Any

import pytest

from data_prep.report.outcomes import Records
from data_prep.slides.find import Task
from data_prep.workers import reader_processes as processes
from data_prep.workers.claims import Claims, TaskQueue
from data_prep.workers.embedding import ConnectionClosed, NetworksIdentity, WorkStopped


class Unresponsive:
    """A reader that waits for an answer and does not react to a shutdown of its channel."""

    def __init__(self, *_: object) -> None:
        self.process, self.channel, self.began, self.killed = self, self, threading.Event(), threading.Event()

    def prepare(self, task: Task, inform: Any) -> None:
        self.began.set()
        assert self.killed.wait(30)
        raise ConnectionClosed

    def shutdown(self) -> None:
        pass

    def kill(self) -> None:
        self.killed.set()

    def end(self, immediately: bool = False) -> None:
        assert immediately


def test_an_unresponsive_reader_is_killed_and_its_claim_released(tmp_path: Path, monkeypatch) -> None:
    reader = Unresponsive()
    monkeypatch.setattr(processes, "ReaderProcess", lambda *_: reader)
    monkeypatch.setattr(processes, "PATIENCE_S", 0.1)
    tasks = [Task(tmp_path / f"{name}.tiff", name, tmp_path / f"{name}.h5") for name in "ab"]

    class Config:
        workers = 1

    config: Any = Config()

    def stopped_midway() -> None:
        with Claims() as claims:
            work = TaskQueue(tasks, claims)
            with processes.Readers(config, NetworksIdentity("demo", 4, None), work, Records(str(tmp_path), ())):
                assert reader.began.wait(30)
                raise WorkStopped

    with pytest.raises(WorkStopped):
        stopped_midway()
    assert reader.killed.is_set()
    assert not list(tmp_path.glob(".*.claim"))
