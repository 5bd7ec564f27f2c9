"""Prepare a cohort in one or several processes, and write the report."""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from lightning_fabric.strategies import DDPStrategy
from tqdm import tqdm

from data_prep.preparation_config import PrepareConfig, load_prepare_config
from data_prep.report.outcomes import Records, SlideReport, table
from data_prep.report.page import write_report
from data_prep.settings import cohort_settings
from data_prep.slides.find import Task, find_slides, left_out, shown, slide_files
from data_prep.workers.attempt import attempt
from data_prep.workers.claims import Claims, TaskQueue
from data_prep.workers.embedding import WorkStopped
from data_prep.workers.networks import LocalNetworks
from data_prep.workers.one_setting import claim_folder, refuse_foreign_files
from data_prep.workers.reader_processes import STOPS, raise_stopped, serve
from ldm.demo.world import generate, may_draw
from ldm.errors import UserError
from ldm.hub import check_there
from ldm.support.files import check_destination, remove_leftovers
from ldm.support.machines import check_machines, report_lightning_errors

RESUMABLE, INTERRUPTED = 75, 130


def prepare(config: PrepareConfig, fabric: Fabric | None = None) -> list[SlideReport]:
    """Prepare this process's part of a cohort and write the report of all of it.

    UserError for mistakes that concern all slides, before any work; DiskFull when there is no room for one.
    """
    _check_inputs(config)
    fabric = fabric or launch(config)
    networks = LocalNetworks.load(config, fabric.device)
    out = Path(config.out)
    claim_folder(out, cohort_settings(config, networks.identity))
    if fabric.global_rank == 0:
        _draw_demo_slides(config)
    fabric.barrier()
    tasks = find_slides(config)
    if (older := refuse_foreign_files(out, [task.target for task in tasks])) and fabric.global_rank == 0:
        print(f"{out}: {older} files are damaged or do not record their settings: made again", file=sys.stderr)
    remove_leftovers(out)
    records = Records(config.out, [task.slide_id for task in tasks])
    index, count = config.part
    own = tasks[index::count]
    done: dict[str, SlideReport] = {}

    def write_reports() -> None:
        if fabric.global_rank == 0:
            write_report(config, [_latest(task, done, records) for task in tasks])

    write_reports()  # so that a killed run leaves a record of pending slides
    try:
        with stopping(fabric), Claims() as claims:
            for report in run(TaskQueue(own, claims), len(own), config, networks, records):
                done[report.slide_id] = report
    finally:
        write_reports()
    return [done[task.slide_id] for task in own]


def _check_inputs(config: PrepareConfig) -> None:
    """UserError for a missing file or folder of the config, before networks are loaded."""
    check_there(config.autoencoder, "autoencoder")
    encoder = config.encoder
    named = {"encoder.weights": encoder.weights, "encoder.embeddings": encoder.embeddings}
    for key, value in (named | {"coordinates": config.coordinates, "table": config.table}).items():
        if value is not None and not Path(value).exists():
            raise UserError(f"{key}: {value} does not exist; correct the path, or set {key}=null")


def launch(config: PrepareConfig) -> Fabric:
    """Start one process per device. They share the cohort like separate jobs, synchronised only at the start."""
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    one: dict[str, Any] = {"plugins": LightningEnvironment()}
    many: dict[str, Any] = {"strategy": DDPStrategy(process_group_backend="gloo", timeout=timedelta(hours=1))}
    alone = config.devices == config.nodes == 1
    machines: dict[str, Any] = {"devices": config.devices, "num_nodes": config.nodes}
    check_machines(config.accelerator, config.devices, config.nodes)
    with report_lightning_errors():
        fabric = Fabric(accelerator=config.accelerator, **machines, **(one if alone else many))
    fabric.launch()
    return fabric


@contextmanager
def stopping(fabric: Fabric) -> Iterator[None]:
    """A scheduler's signals raise WorkStopped here, and in the processes that Fabric started from this one."""
    before = {number: signal.signal(number, raise_stopped) for number in STOPS}
    try:
        yield
    except KeyboardInterrupt:
        for process in getattr(fabric.strategy.launcher, "procs", ()):
            process.terminate()
            process.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    work: TaskQueue[Task], count: int, config: PrepareConfig, networks: LocalNetworks, records: Records
) -> Iterator[SlideReport]:
    """Yield reports as slides finish, under a progress bar."""
    watched = os.isatty(2)
    form = "{desc} {percentage:3.0f}%|{bar}| {n:.1f}/{total} slides [{elapsed}<{remaining}{postfix}]"
    slow = {} if watched else {"mininterval": 30, "maxinterval": 60}
    start = time.monotonic()
    shares: dict[str, float] = {}
    first = int(os.environ.get("LOCAL_RANK", 0)) == 0
    with tqdm(total=count, desc="prepare", bar_format=form, disable=not first, **slow) as bar:

        def progress(slide_id: str, share: float) -> None:
            shares[slide_id] = share
            bar.set_postfix_str(f"{networks.embedded / (time.monotonic() - start):,.0f} tiles/s", refresh=False)
            bar.update(sum(shares.values()) - bar.n)

        for report in _reports(work, config, networks, records, progress):
            progress(report.slide_id, 1.0)
            yield report


def _reports(
    work: TaskQueue[Task],
    config: PrepareConfig,
    networks: LocalNetworks,
    records: Records,
    progress: Callable[[str, float], None],
) -> Iterator[SlideReport]:
    if config.workers:
        yield from serve(networks, config, work, records, progress)
        return
    for task in work:
        report = records.news(task.slide_id) or attempt(task, config, networks, partial(progress, task.slide_id))
        work.done(task)
        yield report


def _draw_demo_slides(config: PrepareConfig) -> None:
    """Draw the demo slides of the config, unless their folder holds other files, which are then prepared."""
    demo, folder = config.generate, Path(config.slides)
    if demo is None:
        return
    if not may_draw(folder):
        print(f"{folder}: holds files of your own, so no demo slide is drawn (generate=null)", file=sys.stderr)
        return
    names = {f"{demo.kind}_{demo.seed + number}.tiff" for number in range(demo.count)}
    if {path.name for path in slide_files(folder, config.pattern)} < names:
        generate(folder, demo.count, demo.seed, demo.kind, demo.size_px)


def _refuse_unasked_drawing(config: PrepareConfig, asked: set[str]) -> None:
    """UserError where the user's `slides` has no slide, and the config would draw demo slides there."""
    folder = Path(config.slides)
    if config.generate is None or "slides" not in asked or "generate" in asked:
        return
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        found = "is empty" if folder.exists() else "does not exist"
        raise UserError(
            f"slides: {config.slides} {found}; name a folder of slides, or say that demo slides are to be drawn there: "
            f"generate.count={config.generate.count}"
        )


def _latest(task: Task, done: dict[str, SlideReport], records: Records) -> SlideReport:
    """The report of a slide: of this run, of another one, or that it is pending."""
    known = done.get(task.slide_id) or records.read(task.slide_id)
    return known or SlideReport(task.slide_id, shown(task.path), "waiting")


def command(path: str, overrides: Sequence[str]) -> int:
    """Prepare a config's cohort and print the result; returns the exit status."""
    config = load_prepare_config([path], overrides)
    _refuse_unasked_drawing(config, {override.partition("=")[0].partition(".")[0] for override in overrides})
    check_destination(config.out, folder=True)
    if config.generate:
        check_destination(config.slides, folder=True)
    fabric = launch(config)
    first = fabric.global_rank == 0  # only the first process reports
    try:
        reports = prepare(config, fabric)
    except KeyboardInterrupt as stop:
        if first:
            print(f"stopped; finished slides are in {config.out}; the same command continues", file=sys.stderr)
        return 0 if not first else RESUMABLE if isinstance(stop, WorkStopped) else INTERRUPTED
    if not first:
        return 0
    print(table(reports, config))
    left = left_out(config)
    if left:
        print(left)
    failed = [report for report in reports if report.status == "failed"]
    for report in reports:
        if report.message:
            print(f"{report.status}: {report.message}")
    print(
        f"{len(reports) - len(failed)} of {len(reports)} slides are in {config.out}"
        + "".join(f"; failed: {', '.join(report.slide_id for report in failed)}" if failed else "")
    )
    return 1 if failed else 0
