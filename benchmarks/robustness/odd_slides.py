"""R1: every kind of odd slide among five good ones in one run of the command; each has its expected outcome."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.robustness.odd_files import KINDS, PICTURE, TILE, OddSlide, picture, tiff
from data_prep.preparation import prepare
from data_prep.preparation_config import load_prepare_config
from ldm.data.h5 import SlideFile

ROOT = Path(__file__).parents[2]
GOOD = 5
SETTINGS = {
    "ladder": {"kind": "histology", "scales": 4},
    "encoder": {"name": "demo"},
    "autoencoder": None,
    "tile_px": TILE,
    "images": "png",
    "unreadable_share": 0.05,
}
LOOKS_ALIKE = 12.0
"""largest mean difference, of 255, caused by JPEG, palettes and white instead of grey glass"""


@dataclass
class Outcome:
    """Outcome of the run."""

    kinds: int
    wrong: list[str] = field(default_factory=list)
    """a line for each that is not as labelled"""
    same: int = 0
    """good slides whose file has the bytes of a run without the odd ones"""
    traceback: bool = False

    def __str__(self) -> str:
        found = f"{self.kinds - len(self.wrong)} of {self.kinds} as labelled, {self.same} of {GOOD} good byte-equal"
        return "; ".join([found, *self.wrong, *(["a traceback"] if self.traceback else [])])


def measure(folder: Path, count: int = len(KINDS)) -> str:
    return str(run(folder, KINDS[:count]))


def run(folder: Path, kinds: Sequence[OddSlide]) -> Outcome:
    """Make the slides in `folder`, prepare them by the command, and check the outcomes."""
    slides, alone = folder / "slides", folder / "alone"
    alone.mkdir(parents=True)
    for number in range(GOOD):
        tiff(alone / f"good_{number}.tiff", picture(number + 1))
    shutil.copytree(alone, slides)
    for kind in kinds:
        (slides / kind.name).mkdir()
        kind.make(slides / kind.name)
    command = _command(folder, kinds)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True)
    printed = (done.stdout + done.stderr).decode(errors="replace")
    result = Outcome(len(kinds), traceback="Traceback" in printed)
    if not (folder / "out" / "report.json").is_file():
        result.wrong = [f"{kind.name}: no report, exit status {done.returncode}" for kind in kinds]
        return result
    reports = json.loads((folder / "out" / "report.json").read_text())
    for kind in kinds:
        mine = [report for report in reports if report["slide_id"].split("/")[0] == kind.name]
        complaint = _judge(kind, mine, folder / "out", printed)
        result.wrong += [f"{kind.name}: {complaint}"] if complaint else []
    result.same = _same_as_alone(folder)
    return result


def _command(folder: Path, kinds: Sequence[OddSlide]) -> list[str]:
    table, slides = folder / "table.csv", folder / "slides"
    files = [
        (path.relative_to(slides), kind.mpp) for kind in kinds if kind.mpp for path in (slides / kind.name).iterdir()
    ]
    table.write_text("\n".join(["slide,mpp", *(f"{file},{mpp}" for file, mpp in files)]) + "\n")
    config = {**SETTINGS, "slides": str(slides), "out": str(folder / "out"), "table": str(table)}
    return [sys.executable, "data_prep/prepare.py", "--config", str(_written(folder / "config.yaml", config))]


def _judge(kind: OddSlide, reports: list[dict[str, Any]], out: Path, printed: str) -> str:
    """What is wrong with the outcome; empty when it is as expected."""
    if len(reports) != 1:
        return f"{len(reports)} reports"
    (report,) = reports
    status, message = report["status"], report["message"]
    if kind.expected != "prepared":
        if status != "failed" or kind.expected not in message:
            return f"{status} {message!r}, expected {kind.expected!r}"
        if "\n" in message or "; " not in message or kind.name not in message or message not in printed:
            return f"not one printed line with file, cause and remedy: {message!r}"
        return ""
    if status != "prepared":
        return f"{status} {message!r}, expected {kind.expected}"
    target = out / f"{report['slide_id']}.h5"
    if out.resolve() not in target.resolve().parents:
        return f"written outside the output folder: {target}"
    slide = SlideFile(target)
    return _differs(slide) or _lost(kind, slide)


def _differs(slide: SlideFile) -> str:
    """Whether the base tiles are those of PICTURE."""
    rows = range(slide.count("20x"))
    if len(rows) < 25:
        return f"{len(rows)} base tiles"
    places = slide.ij("20x") * TILE
    tiles = np.stack([PICTURE[y : y + TILE, x : x + TILE] for y, x in places]).astype(float)
    distance = np.abs(np.stack(slide.images("20x", rows)) - tiles).mean((1, 2, 3)).max()
    return f"a tile differs by {distance:.1f} of 255" if distance > LOOKS_ALIKE else ""


def _lost(kind: OddSlide, slide: SlideFile) -> str:
    """A damaged tile, and only that, is listed and left out with every region over it."""
    damaged = kind.name == "one_damaged_tile"
    corners = slide.unreadable()
    if len(corners) != damaged:
        return f"{corners} unreadable"
    for x, y in corners:
        for scale in slide.ladder:
            side = TILE * scale.downsample
            if (slide.ij(scale.name) == (y // side, x // side)).all(1).any():
                return f"a region of {scale.name} over ({x}, {y}) is kept"
    return ""


def _same_as_alone(folder: Path) -> int:
    config = {**SETTINGS, "slides": str(folder / "alone"), "out": str(folder / "alone_out")}
    prepare(load_prepare_config([_written(folder / "alone.yaml", config)]))
    names = [f"good_{number}.h5" for number in range(GOOD)]
    pairs = [(folder / "out" / name, folder / "alone_out" / name) for name in names]
    return sum(one.is_file() and one.read_bytes() == other.read_bytes() for one, other in pairs)


def _written(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps(config))  # JSON is YAML
    return path
