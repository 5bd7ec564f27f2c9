"""R4: the disk is full while preparing, training, sampling, and writing pages and palettes; then there is space, and
the same command continues.

The disk is a small tmpfs, which needs permission to mount; a file of zeros leaves too little space on it.
"""

import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.fixtures import toy, training_cohort
from benchmarks.robustness import prepared_cohort
from data_prep import preparation, prepare
from ldm.checkpoint import load_weights
from ldm.cli import evaluate, palette, train, view
from ldm.cli import joint as sample_joint
from ldm.cli import sample as sample_patches
from ldm.errors import cli
from ldm.images.contact_sheet import save_png
from ldm.view import site
from ldm.view.catalogue import UNFINISHED

MEGABYTES = 32
DEMO = str(Path(__file__).parents[2] / "configs" / "demo")
PROGRESS = re.compile(r"\x1b\[A|[^\x1b]*(/s|\?)\S*\](?=\x1b|$|error)|[^\x1b]*\d+%\|.*\]")
FULL = re.compile(r"the disk is full: it needs|needs about .* of disk, .* are free in")
"""messages: while writing, or before any work where the size is known"""
NOTICES = ("precision: ", "preview: the model has no preview head")
"""beginnings of lines that are no refusal"""
Contents = dict[str, bytes]


class NoMountError(Exception):
    """No permission to mount a tmpfs."""


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of 32 MB at folder/disk. NoMountError where that is not permitted."""
    disk = folder / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(disk)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise NoMountError from error
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@contextmanager
def room(disk: Path, left: int) -> Iterator[None]:
    """Fill all but `left` bytes of the disk."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast.write_bytes(bytes(max(0, free - left)))
    yield
    ballast.unlink()


def outcome(command: Callable[[list[str]], object], arguments: list[str]) -> tuple[int, list[str]]:
    """The exit status of a command and its lines on stderr, without progress."""
    with redirect_stderr(io.StringIO()) as told, redirect_stdout(io.StringIO()):
        try:
            cli(lambda: command(arguments))
        except SystemExit as ended:
            status = int(ended.code or 0)
    os.environ.pop("ZOOMLDM_RUN", None)
    lines = (PROGRESS.sub("", line).strip() for line in re.split(r"[\r\n]+", told.getvalue()))
    return status, [line for line in lines if line and not line.startswith(NOTICES)]


def files(folder: Path) -> Contents:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refusal(command: Callable[[list[str]], object], arguments: list[str], out: Path) -> list[str]:
    """What is wrong with a command's behaviour on the full disk below `out`."""
    before = files(out)
    status, lines = outcome(command, arguments)
    after = files(out)
    wrong = [f"exit status {status}"] if status != 2 else []
    if len(lines) != 1 or str(out) not in lines[0] or not FULL.search(lines[0]):
        wrong.append(f"told {lines}")
    logs = ("metrics", "tensorboard", "report", "config.yaml")
    wrong += [
        f"{name} changed"
        for name in before
        if after.get(name) != before[name]
        and not name.split("/")[-1].startswith(logs)
        and name.split("/")[0] not in logs
    ]
    return wrong + [f"{name} is left" for name in after if Path(name).name.startswith(".") and name != UNFINISHED]


def preparing(folder: Path, disk: Path) -> list[str]:
    """A slide's file does not fit."""
    config = prepared_cohort.make(folder, 2, 768)
    preparation.prepare(prepared_cohort.variant(config, out=str(folder / "expected")))
    expected = prepared_cohort.contents(folder / "expected")
    config = prepared_cohort.variant(config, out=str(disk / "out"))
    command = ["--config", f"{DEMO}/data.yaml", *prepared_cohort.overrides(config)]
    wrong = []
    (disk / "out").mkdir()
    for left in (len(expected["0.h5"]) // 2, len(expected["0.h5"]) + len(expected["1.h5"]) // 2):
        with room(disk, left):
            wrong += refusal(prepare.main, command, disk / "out")
        there = prepared_cohort.contents(disk / "out")
        wrong += [f"{name} is not whole" for name in there if there[name] != expected[name]]
    status, _ = outcome(prepare.main, command)
    differing = prepared_cohort.differing(prepared_cohort.contents(disk / "out"), expected)
    return [*wrong, *([f"then status {status}"] if status else []), *(f"{name} differs" for name in differing)]


def training(folder: Path, disk: Path) -> list[str]:
    """A checkpoint does not fit."""
    overrides = training_cohort.make(folder / "toy")
    base = ["--base", f"{DEMO}/zoomldm.yaml", *overrides]
    outcome(train.main, [*base, f"run={folder / 'expected'}", "training.max_steps=8"])
    run = disk / "run"
    wrong = []
    if (ended := outcome(train.main, [*base, f"run={run}", "training.max_steps=4"]))[0]:
        wrong.append(f"training ended with {ended}")
    (run / "weights.safetensors").unlink()
    size = next((run / "checkpoints").glob("*.ckpt")).stat().st_size
    resume = ["--resume", str(run), "training.max_steps=8"]
    with room(disk, size // 2):
        wrong += refusal(train.main, resume, run)
    outcome(train.main, resume)
    one, two = (load_weights(path / "weights.safetensors") for path in (folder / "expected", run))
    return wrong + [f"{name} differs" for name in one if not one[name].equal(two[name])]


def sampling(folder: Path, disk: Path) -> list[str]:
    """Pictures do not fit."""
    toy.run_folder(folder / "zoomldm", "zoomldm")
    slide = toy.slide(folder / "slide.h5")
    wrong = []
    shared = ["--model", str(folder / "zoomldm"), "--from", str(slide), "--steps", "2"]
    joint = ["--scales", "20x,10x", "--size", "128", "--accelerator", "cpu"]
    for script, more in ((sample_patches, ["--count", "2", "--device", "cpu"]), (sample_joint, joint)):
        name = script.__name__.split(".")[-1]
        out = disk / name
        expected = folder / f"expected-{name}"
        outcome(script.main, [*shared, *more, "--out", str(expected)])
        out.mkdir()
        with room(disk, 4096):
            wrong += refusal(script.main, [*shared, *more, "--out", str(out)], out)
        outcome(script.main, [*shared, *more, "--out", str(out)])
        pictures = [
            {n: c for n, c in files(path).items() if not n.endswith((".json", ".html"))} for path in (expected, out)
        ]
        wrong += [f"{name}: {picture} differs" for picture in prepared_cohort.differing(*pictures)]
    return wrong


def exporting(folder: Path, disk: Path) -> list[str]:
    """A page for the browser, a passport and a palette do not fit; the two latter do not replace those of before."""
    rng = np.random.default_rng(0)
    for name in ("real/a_0_0", "real/a_0_1", "real/b_0_0", "real/b_0_1", "generated/c", "generated/d"):
        save_png(folder / f"{name}.png", rng.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    toy.slide(folder / "cohort" / "slide.h5")
    given = ["passport", "--real", str(folder / "real"), "--generated", str(folder / "generated"), "--device", "cpu"]
    clusters = ["--cohort", str(folder / "cohort"), "--clusters"]
    wrong = []
    with patch.object(site, "library", lambda: {}):
        page = [str(folder / "real"), "--export", str(disk / "page")]
        for left in (0, 20_000):
            shutil.rmtree(disk / "page", ignore_errors=True)  # one that was stopped begins again
            (disk / "page").mkdir()
            with room(disk, left):
                wrong += refusal(view.main, page, disk / "page")
            if (disk / "page/index.html").exists():
                wrong.append("a page that is not whole opens")
        wrong += [f"then {ended}" for ended in [outcome(view.main, page)] if ended[0]]
        wrong += [f"{name} is left" for name in files(disk / "page") if name == UNFINISHED]
    for main, out, first, second in (
        (evaluate.main, "passport", [*given, "--seed", "0"], [*given, "--seed", "1"]),
        (palette.main, "p.safetensors", [*clusters, "2"], [*clusters, "3"]),
    ):
        place = disk / f"of-{out}"
        target = ["--out", str(place / out if "." in out else place)]
        wrong += [f"{out}: {ended}" for ended in [outcome(main, [*first, *target])] if ended[0]]
        with room(disk, 4096):
            wrong += refusal(main, [*second, *target], place)
        before = files(place)
        wrong += [f"{out}: then {ended}" for ended in [outcome(main, [*second, *target])] if ended[0]]
        wrong += [f"{out}: nothing new"] * (files(place) == before)
    return wrong


def measure(folder: Path, count: int) -> str:
    """The first `count` of the four."""
    good = 0
    for number, scenario in enumerate((preparing, training, sampling, exporting)[:count]):
        place = folder / str(number)
        place.mkdir()
        try:
            with small_disk(place) as disk:
                wrong = scenario(place, disk)
        except NoMountError:
            return "not measured: a small disk could not be mounted here"
        good += not wrong
        print(f"{scenario.__name__}: {'; '.join(wrong) or 'good'}", flush=True)
    return f"{good} of {count}: old data whole, one line, status 2, then equal to an undisturbed run"
