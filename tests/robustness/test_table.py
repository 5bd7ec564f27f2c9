"""The table benchmarks/robustness.md is filled row by row."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks.robustness import __main__ as table_of


def test_calls_fill_the_table_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(name: str, found: str) -> None:
        module = ModuleType(name)
        module.measure = lambda folder, count: f"{found} of {count} in {len(list(folder.iterdir()))} files"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"benchmarks.robustness.{name}", module)

    table = tmp_path / "table.md"
    for figure, found in (("R5", "first"), ("R2", "second"), ("R5", "third")):
        scenario(table_of.FIGURES[figure].module, found)
        table_of.main([figure, "--out", str(table)])
    lines = table.read_text().splitlines()
    assert lines[:2] == table_of.HEADER
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| R2", "| R5"]
    assert "second of 50 in 0 files" in lines[2]
    assert "third of 300 in 0 files" in lines[3]
