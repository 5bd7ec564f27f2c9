"""benchmarks.speed at tiny size: both sides of every row give the same, and a difference is not measured."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks import speed
from ldm.errors import UserError


@pytest.fixture(autouse=True)
def same_threads() -> None:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_every_row_compares_two_ways_to_the_same_result(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="the package that it compares with is not installed")
    speed.main(["--size", "tiny", "--repeats", "1", "--threads", "1", "--out", str(tmp_path / "speed.md")])
    table = [line for line in (tmp_path / "speed.md").read_text().splitlines() if line.startswith("| ")]
    assert [name in line for name, line in zip(NAMES, table[2:], strict=True)] == [True] * len(NAMES)


NAMES = ("U-Net", "encoding", "decoding", "training step", "DDIM", "DPM-Solver++", "loading")


def test_what_gives_something_else_is_not_measured() -> None:
    with pytest.raises(UserError, match=r"other: results differ by 1\.0e-01 of the largest"):
        speed.measured("other", lambda: torch.tensor([0.9]), lambda: torch.tensor([1.0]), 1)


def test_without_diffusers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"diffusers: the package is missing .* pip install 'zoomldm\[diffusers\]'"):
        speed.main([])
