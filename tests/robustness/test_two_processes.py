"""R8 at its full count."""

from pathlib import Path

import pytest

from benchmarks.robustness.two_processes import TOLERANCE, differences


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    found = differences(tmp_path, 50)
    assert len(found) == 50
    assert max(found) <= TOLERANCE
