"""What a run logged."""

import csv
from pathlib import Path


def losses(folder: Path) -> dict[int, float]:
    """Training loss by step, over all starts of a run."""
    found = {}
    for path in sorted(folder.glob("metrics/*/metrics.csv")):
        with open(path) as file:
            found |= {int(row["step"]): float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")}
    return found
