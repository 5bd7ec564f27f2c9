"""R9 at a small count, and that it detects a leak."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.robustness import leaks

pytestmark = pytest.mark.skipif(not leaks.STATM.exists(), reason="no /proc here")


def test_memory_and_files_that_are_kept_are_seen(tmp_path: Path) -> None:
    kept: list[Any] = []

    def leak(number: int) -> None:
        kept.append(mmap.mmap(-1, 200_000))  # large enough to get separate pages
        kept[-1].write(bytes(200_000))
        kept.append(open("/dev/null"))  # noqa: SIM115

    leaking = leaks.growth(lambda folder: leak, tmp_path / "leaking", 30)
    assert leaking.megabytes == pytest.approx(20, rel=0.2)
    assert leaking.files == 29
    steady = leaks.growth(lambda folder: lambda number: np.ones(25_000), tmp_path / "steady", 30)
    assert steady.megabytes < leaks.MOST_MB
    assert steady.files == 0


@pytest.mark.slow
def test_nothing_is_kept_of_what_was_sampled_and_read(tmp_path: Path) -> None:
    found = leaks.outcomes(tmp_path, 100)
    assert {name: each.files for name, each in found.items()} == dict.fromkeys(leaks.KINDS, 0)
    for name in ("patches", "region reads"):  # a few joint images are too few for a slope
        assert found[name].megabytes < leaks.MOST_MB, found
