from pathlib import Path

from benchmarks.robustness.invariance import measure


def test_prepared_files_depend_neither_on_batches_nor_on_workers(tmp_path: Path) -> None:
    assert measure(tmp_path, 2) == "6 of 6 byte-equal"
