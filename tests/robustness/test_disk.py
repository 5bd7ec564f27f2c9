"""R4: after a full disk, the same command gives the same result."""

from pathlib import Path

import pytest

from benchmarks.robustness.disk import measure


@pytest.mark.slow
def test_a_full_disk_is_told_in_one_line_and_the_same_command_goes_on(tmp_path: Path) -> None:
    found = measure(tmp_path, 4)
    if found.startswith("not measured"):
        pytest.skip(found)
    assert found == "4 of 4: old data whole, one line, status 2, then equal to an undisturbed run"
