"""Outcome of each slide of a cohort: files on disk, and the printed table.

<out>/report.json                  a list, in the order of the slides
<out>/report/<slide_id>.json       one of them, written when the slide is done, for other processes
<out>/report/<slide_id>.log        the traceback of an unforeseen error
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_prep.preparation_config import PrepareConfig
from ldm.data.cohort import unprepared
from ldm.support.files import write_text


@dataclass(frozen=True)
class SlideReport:
    """Outcome of one slide: prepared now, kept from before, failed with a `message`, or pending."""

    slide_id: str
    source: str
    status: str
    seconds: float = 0.0
    message: str = ""
    width_l0: int = 0
    height_l0: int = 0
    mpp_l0: float = 0.0
    """um or m per pixel of the file's full resolution"""
    mpp_from: str = ""
    """source of mpp: "file", "config" or "table" """
    mpp_tag: str = ""
    """mpp in the file: "0.25 x 0.25", or empty"""
    level: int = 0
    """the level that was read"""
    resampling: float = 1.0
    """its pixels per base pixel"""
    regions: dict[str, int] = field(default_factory=dict)
    """kept at each scale"""
    unreadable: list[tuple[int, int]] = field(default_factory=list)
    """(x, y) in level-0 pixels of base tiles that were left out as unreadable"""
    notes: list[str] = field(default_factory=list)
    """notes on what was read differently than the file says"""


class Records:
    """The reports of single slides in a cohort's folder."""

    def __init__(self, out: str | Path, slide_ids: Iterable[str]) -> None:
        self.folder = Path(out) / "report"
        self._before = {slide_id: self._stamp(slide_id) for slide_id in slide_ids}

    def news(self, slide_id: str) -> SlideReport | None:
        """A report by another process since this one began, if any."""
        return None if self._stamp(slide_id) == self._before.get(slide_id, 0) else self.read(slide_id)

    def read(self, slide_id: str) -> SlideReport | None:
        """The last report of a slide, from any run; None if missing or damaged."""
        try:
            return SlideReport(**json.loads(self.path(slide_id, ".json").read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, report: SlideReport) -> None:
        write_text(self.path(report.slide_id, ".json"), json.dumps(asdict(report)) + "\n")

    def path(self, slide_id: str, suffix: str) -> Path:
        return self.folder / f"{slide_id}{suffix}"

    def _stamp(self, slide_id: str) -> int:
        try:
            return self.path(slide_id, ".json").stat().st_mtime_ns
        except OSError:
            return 0


def waiting(out: str | Path) -> list[str]:
    """The pending slides of a cohort by its report; empty without a report."""
    return unprepared(out).pending


def table(reports: Sequence[SlideReport], config: PrepareConfig) -> str:
    """One line per slide, and one per note below them."""
    names, unit = config.zooms.names, config.zooms.unit
    width = max(len("slide"), *(len(report.slide_id) for report in reports))
    lines = [f"{'slide':{width}}  {unit + '/px':>7}  level  resampled  {'  '.join(f'{n:>8}' for n in names)}  status"]
    for report in reports:
        counts = "  ".join(f"{report.regions.get(name, 0):8d}" for name in names)
        read = f"{report.mpp_l0:7.4g}  {report.level:5d}  x{report.resampling:<8.4g}"
        if report.status in ("failed", "waiting"):
            read, counts = " " * len(read), " " * len(counts)
        lines.append(f"{report.slide_id:{width}}  {read}  {counts}  {report.status}")
    lines += [f"{report.slide_id}: {note}" for report in reports for note in report.notes]
    return "\n".join(lines)
