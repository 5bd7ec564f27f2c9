"""Slides -> a cohort of prepared slides, one HDF5 file each: the data that everything else trains on.

    python data_prep/prepare.py --config configs/demo/data.yaml [key=value ...]

Each file appears only when it is whole, so an interrupted run is continued by typing the command again: whole files of
the same settings are kept, others are made. A slide that cannot be prepared does not stop the cohort; it is listed in
report.json and on the last line, and the exit status is 1. Files do not depend on the number of workers.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from data_prep.config import PrepareConfig, load_prepare_config
from data_prep.demo_world import generate
from data_prep.find import Task, find_slides, shown, slide_files
from data_prep.prepare_slide import is_prepared, load_tools, prepare_slide, settings
from ldm.data.h5 import SlideFile
from ldm.errors import UserError, cli
from ldm.files import whole


@dataclass(frozen=True)
class SlideReport:
    """What became of one slide: prepared now, kept from before, or failed with a `message`."""

    slide_id: str
    source: str
    status: str
    seconds: float = 0.0
    message: str = ""
    mpp_l0: float = 0.0
    """um or m per pixel of the file's full resolution"""
    mpp_from: str = ""
    """who said so: "file", "config" or "table" """
    mpp_tag: str = ""
    """what the file says: "0.25 x 0.25", or nothing"""
    level: int = 0
    """the level that was read"""
    resampling: float = 1.0
    """its pixels per base pixel"""
    regions: dict[str, int] = field(default_factory=dict)
    """kept at each scale"""
    unreadable: list[tuple[int, int]] = field(default_factory=list)
    """(x, y) in level-0 pixels of base tiles that could not be read, and were left out"""


def prepare(config: PrepareConfig) -> list[SlideReport]:
    """Prepare a cohort and write out/report.json. UserError for mistakes that concern all of it, before any work."""
    load_tools(config)
    _draw_demo_slides(config)
    tasks = find_slides(config)
    reports: dict[str, SlideReport] = {}
    with tqdm(total=len(tasks), desc="prepare", unit="slide") as bar:
        for report in _run(tasks, config):
            reports[report.slide_id] = report
            bar.update()
    ordered = [reports[task.slide_id] for task in tasks]
    with whole(Path(config.out) / "report.json") as partial:
        partial.write_text(json.dumps([asdict(report) for report in ordered], indent=1) + "\n")
    return ordered


def _draw_demo_slides(config: PrepareConfig) -> None:
    """Draw the demo slides that the config asks for, unless the folder holds anything else."""
    demo, folder = config.generate, Path(config.slides)
    if demo is None:
        return
    names = {f"{demo.kind}_{demo.seed + number}.tiff" for number in range(demo.count)}
    if {path.name for path in slide_files(folder, config.pattern)} < names:
        generate(folder, demo.count, demo.seed, demo.kind, demo.size_px)


def _run(tasks: Sequence[Task], config: PrepareConfig) -> Iterator[SlideReport]:
    """Reports as slides finish."""
    if config.workers == 1:
        for task in tasks:
            yield prepare_one(task, config)
        return
    with ProcessPoolExecutor(config.workers, get_context("spawn"), _share_cores, (config.workers,)) as pool:
        for done in as_completed([pool.submit(prepare_one, task, config) for task in tasks]):
            yield done.result()


def _share_cores(workers: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))


def prepare_one(task: Task, config: PrepareConfig) -> SlideReport:
    """Prepare a slide unless it is there; a slide that cannot be prepared becomes a report, not an error."""
    start = time.perf_counter()
    try:
        if task.refusal:
            raise UserError(task.refusal)
        kept = is_prepared(task.target, settings(task, config, load_tools(config)))
        if not kept:
            prepare_slide(task, config, quiet=config.workers > 1)
        file = SlideFile(task.target)
        return SlideReport(
            task.slide_id,
            shown(task.path),
            "kept" if kept else "prepared",
            round(time.perf_counter() - start, 2),
            mpp_l0=file.attrs["mpp_l0"],
            mpp_from=file.attrs["mpp_from"],
            mpp_tag=file.attrs["mpp_tag"],
            level=file.attrs["level"],
            resampling=file.attrs["resampling"],
            regions={name: file.count(name) for name in file.attrs["scales"]},
            unreadable=file.unreadable(),
        )
    except (UserError, OSError) as error:
        seconds = round(time.perf_counter() - start, 2)
        return SlideReport(task.slide_id, shown(task.path), "failed", seconds, shown(str(error)))


def table(reports: Sequence[SlideReport], config: PrepareConfig) -> str:
    """One line per slide."""
    names, unit = config.zooms.names, config.zooms.unit
    width = max(len("slide"), *(len(report.slide_id) for report in reports))
    lines = [f"{'slide':{width}}  {unit + '/px':>7}  level  resampled  {'  '.join(f'{n:>8}' for n in names)}  status"]
    for report in reports:
        counts = "  ".join(f"{report.regions.get(name, 0):8d}" for name in names)
        read = f"{report.mpp_l0:7.4g}  {report.level:5d}  x{report.resampling:<8.4g}"
        if report.status == "failed":
            read, counts = " " * len(read), " " * len(counts)
        lines.append(f"{report.slide_id:{width}}  {read}  {counts}  {report.status}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Status 0, or 1 when some slide failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="YAML, for example configs/demo/data.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace the config's")
    arguments = parser.parse_args(argv)
    config = load_prepare_config([arguments.config], arguments.overrides)
    reports = prepare(config)
    print(table(reports, config))
    failed = [report for report in reports if report.status == "failed"]
    for report in failed:
        print(f"failed: {report.message}")
    print(
        f"{len(reports) - len(failed)} of {len(reports)} slides are in {config.out}"
        + "".join(f"; failed: {', '.join(report.slide_id for report in failed)}" if failed else "")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    cli(main)
