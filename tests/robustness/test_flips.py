"""R5 at a small count."""

from pathlib import Path

from benchmarks.robustness import flips


def test_no_flipped_bit_is_silent(tmp_path: Path) -> None:
    for name, outcomes in flips.tally(tmp_path, 16).items():
        assert outcomes.keys() <= {"refused", "harmless"}, (name, outcomes)
        assert outcomes["refused"] >= 4, (name, outcomes)
