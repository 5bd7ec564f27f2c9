"""A preparation that is killed or stopped leaves no incomplete files, and the same command continues it."""

import signal
from pathlib import Path

import pytest

from benchmarks.robustness import kills, prepared_cohort
from data_prep.preparation import INTERRUPTED, RESUMABLE


@pytest.mark.slow
def test_a_killed_preparation_is_continued_by_the_same_command(tmp_path: Path) -> None:
    assert kills.measure(tmp_path, 2) == "2 of 2 byte-equal"


@pytest.mark.usefixtures("python_sigint")
@pytest.mark.parametrize(
    ("number", "status", "workers"), [(signal.SIGTERM, RESUMABLE, 2), (signal.SIGINT, INTERRUPTED, 0)]
)
def test_a_signal_stops_it_cleanly(tmp_path: Path, number: signal.Signals, status: int, workers: int) -> None:
    config = prepared_cohort.variant(prepared_cohort.make(tmp_path, 3, kills.SIDE), workers=workers)
    process = kills.launch(config)
    kills.wait_for_work(process, config.out)
    process.send_signal(number)
    out, told = process.communicate(timeout=kills.PATIENCE_S)
    assert process.returncode == status, (out, told)
    assert told.decode().splitlines()[-1] == f"stopped; finished slides are in {config.out}; the same command continues"
    assert b"Traceback" not in told
    assert not kills.outliving(process.pid)
    assert not prepared_cohort.hidden(config.out)
