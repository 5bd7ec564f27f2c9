"""Results on disk: every figure in the JSON, and valid Markdown tables."""

import json
import math
from pathlib import Path

import pytest

from ldm.evaluation.tables import frechet_name, markdown, mmd_name, number, spread, write_results


def test_a_table_has_as_many_cells_in_every_line() -> None:
    lines = markdown(["", "20x", "5x"], [["ours", "1.0", "2.0"], ["CDM", "-", "3.0"]]).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {4}


def test_what_was_not_measured_is_a_dash_and_null(tmp_path: Path) -> None:
    assert [number(None, 2), number(math.nan, 2), number(1.005, 1)] == ["-", "-", "1.0"]
    path = write_results(tmp_path / "out", "t", {"seed": 0}, [{"a": math.nan, "b": math.inf, "c": 1.5}], "text")
    assert path.read_text() == "text\n"
    found = json.loads(path.with_suffix(".json").read_text())
    assert found == {"settings": {"seed": 0}, "records": [{"a": None, "b": None, "c": 1.5}]}


def test_spread_is_mean_and_standard_deviation() -> None:
    assert spread([1.0, 3.0], 2) == "2.00 ± 1.00"
    assert spread([2.0, 2.0], 1) == "2.0"
    assert spread([1.0, math.nan], 1) == "-"


@pytest.mark.parametrize(
    ("extractor", "what", "name"),
    [
        ("inception-0123", "", "FID, inception-0123"),
        ("inception-0123", "crops", "Crop-FID, inception-0123"),
        ("clip", "whole", "CLIP-FID, clip"),
        ("uni", "", "Frechet distance, uni"),
        ("demo-0123", "whole", "FD whole, demo-0123"),
        ("dinov2-l", "", "FD-DINOv2, dinov2-l"),
        ("dinov2-l-0123456789ab", "", "FD-DINOv2, dinov2-l-0123456789ab"),
        ("dinov2", "", "Frechet distance, dinov2"),  # with registers: not the network of FD-DINOv2
        ("clip-l-336", "whole", "FD whole, clip-l-336"),  # not that of CLIP-FID
    ],
)
def test_distances_go_by_the_names_of_the_field(extractor: str, what: str, name: str) -> None:
    assert frechet_name(extractor, what) == name


def test_only_the_statistic_in_the_space_of_cmmd_is_called_so() -> None:
    assert mmd_name("clip-l-336-0123456789ab") == mmd_name("clip-l-336") == "CMMD"
    assert mmd_name("clip") == "MMD with the kernel of CMMD, clip"
