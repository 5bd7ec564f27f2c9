"""Prepare one slide of a cohort: the result is prepared, kept, or failed, which does not stop the others."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path

from data_prep.plan import plan_slide
from data_prep.preparation_config import PrepareConfig
from data_prep.prepare_slide import prepare_slide
from data_prep.report.outcomes import Records, SlideReport
from data_prep.report.outlines import save_outlines
from data_prep.report.overview import save_picture
from data_prep.settings import cohort_settings, has_settings, is_prepared, settings
from data_prep.slides.find import Task, shown
from data_prep.workers.embedding import Networks
from data_prep.workers.one_setting import check_folder
from ldm.data.h5 import SlideFile
from ldm.errors import FULL_DISK, UserError
from ldm.support.files import DiskFull, disk_full, write_text

Progress = Callable[[float], None]
"""called with the share of the slide that is done"""


def attempt(task: Task, config: PrepareConfig, networks: Networks, progress: Progress) -> SlideReport:
    """Prepare a slide unless it exists, and record the result. Only DiskFull is raised, as other slides would fail too.

    A UserError or OSError is reported as the slide's error. Any other exception is a bug: the message names the place
    in the code, and report/<slide_id>.log holds the traceback.
    """
    start = time.perf_counter()
    records = Records(config.out, ())
    try:
        report = _attempt(task, config, networks, progress, start)
    except Exception as error:
        networks.forget()
        if isinstance(error, DiskFull):
            raise
        if isinstance(error, OSError) and error.errno in FULL_DISK:
            raise disk_full(task.target, None) from error
        message = str(error) if isinstance(error, UserError | OSError) else _logged(error, task, records)
        report = failed(task, message, start)
    records.write(report)
    return report


def _attempt(task: Task, config: PrepareConfig, networks: Networks, progress: Progress, start: float) -> SlideReport:
    if task.refusal:
        raise UserError(task.refusal)
    check_folder(Path(config.out), cohort_settings(config, networks.identity))
    kept = is_prepared(task.target, settings(task, config, networks.identity))
    replaced = not kept and has_settings(task.target)
    picture = Records(config.out, ()).path(task.slide_id, ".jpg")
    if not (kept and picture.exists()):
        plan = plan_slide(task, config, networks.identity.width)
        save_outlines(plan, config, task)
        save_picture(plan, config, picture)
    if not kept:
        prepare_slide(task, plan, config, networks, progress)
        if plan.lost.any():
            save_picture(plan, config, picture)
    file = SlideFile(task.target)
    return SlideReport(
        task.slide_id,
        shown(task.path),
        "kept" if kept else "prepared",
        round(time.perf_counter() - start, 2),
        f"{shown(task.path)}: its file, um/px or imports changed, so {task.target} was made again" if replaced else "",
        width_l0=file.attrs["width_l0"],
        height_l0=file.attrs["height_l0"],
        mpp_l0=file.attrs["mpp_l0"],
        mpp_from=file.attrs["mpp_from"],
        mpp_tag=file.attrs["mpp_tag"],
        level=file.attrs["level"],
        resampling=file.attrs["resampling"],
        regions={name: file.count(name) for name in file.attrs["scales"]},
        unreadable=file.unreadable(),
        notes=file.attrs.get("notes", "").splitlines(),
    )


def failed(task: Task, message: str, start: float) -> SlideReport:
    """The report of a slide that failed, its message in one line."""
    seconds = round(time.perf_counter() - start, 2)
    return SlideReport(task.slide_id, shown(task.path), "failed", seconds, shown(message))


def _logged(error: Exception, task: Task, records: Records) -> str:
    """Write the traceback of a bug to the slide's log; returns a message with the exception and its place."""
    log = records.path(task.slide_id, ".log")
    write_text(log, "".join(traceback.format_exception(error)))
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).parent.name == "data_prep"] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
    return f"{task.path}: {type(error).__name__} at {place} ({error}); its traceback is in {log}: please report it"
