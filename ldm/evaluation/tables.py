"""Results on disk: a JSON file with every figure, and Markdown tables in the paper's layout."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm.support.files import write_text

Record = Mapping[str, Any]
"""one measurement: its keys and figures"""


def frechet_name(extractor: str, what: str = "") -> str:
    """The usual name of the Frechet distance in the space of `extractor`, of "crops" or "whole" images."""
    known = {("inception", ""): "FID", ("inception", "crops"): "Crop-FID", ("clip", "whole"): "CLIP-FID"}
    known[("dinov2-l", "")] = "FD-DINOv2"
    name = known.get((network_of(extractor), what), "Frechet distance" if not what else f"FD {what}")
    return f"{name}, {extractor}"


def mmd_name(extractor: str) -> str:
    """CMMD in its own space; in any other, what it is."""
    return "CMMD" if network_of(extractor) == "clip-l-336" else f"MMD with the kernel of CMMD, {extractor}"


def network_of(extractor: str) -> str:
    """The id of an extractor without the digest of its weights."""
    return re.sub(r"-[0-9a-f]{4,}$", "", extractor)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is a label."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None, digits: int) -> str:
    """A number with fixed digits, or a dash if not measured."""
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and standard deviation over images; only the mean of a single value, a dash where a value is unknown."""
    mean = math.fsum(values) / len(values)
    if math.isnan(mean) or len(set(values)) == 1:
        return number(mean, digits)
    return (
        f"{mean:.{digits}f} ± {math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values)):.{digits}f}"
    )


def write_results(out: Path, name: str, settings: Record, records: Sequence[Record], text: str) -> Path:
    """Write <name>.json (settings, records; NaN becomes null) and <name>.md; returns the latter."""
    content = {"settings": dict(settings), "records": [_plain(record) for record in records]}
    write_text(out / f"{name}.json", json.dumps(content, indent=1, allow_nan=False, default=str) + "\n")
    write_text(out / f"{name}.md", text.rstrip() + "\n")
    return out / f"{name}.md"


def _plain(record: Record) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }
