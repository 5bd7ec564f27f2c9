"""R10 at a small count; python -m benchmarks.robustness runs it in full."""

from pathlib import Path

import pytest

from benchmarks.robustness import command_lines


@pytest.mark.parametrize("count", [17, pytest.param(340, marks=pytest.mark.slow)])
def test_a_command_line_is_refused_in_one_line_or_done(count: int, tmp_path: Path) -> None:
    found = list(command_lines.outcomes(tmp_path, count, seed=count))
    assert [(line, ended) for line, ended in found if ended not in command_lines.GOOD] == []
    assert 0.2 * count < sum(ended == "refused" for _, ended in found) < 0.9 * count
