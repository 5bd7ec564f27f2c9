"""R10: command lines drawn from grammars: each is refused in one line, or valid and executed; never a traceback.

The work itself is replaced: a command ends at the function that would begin it (`boundaries`), after all its checks.
"""

import contextlib
import io
import os
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from numpy.random import Generator
from PIL import Image
from tqdm import tqdm

from benchmarks.robustness.grammars import SLIDE_FOLDERS, Grammar, commands
from data_prep import crops, preparation
from ldm.commands import evaluate as evaluation
from ldm.commands import explore as explore_work
from ldm.commands import joint as joint_work
from ldm.commands import mil as mil_work
from ldm.commands import train as training
from ldm.commands import view as view_work
from ldm.demo import world as demo_world
from ldm.errors import cli
from ldm.evaluation.experiments.context import Report, Sheet
from ldm.evaluation.mil.features import FeatureExtractor
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED

LONGEST_S = 60
"""a command that takes longer counts as hanging"""
GOOD = ("refused", "done")


def world(folder: Path) -> None:
    """The files that the lines name: a file, a folder, pictures, folders of slides, a cohort."""
    for name in SLIDE_FOLDERS:
        (folder / name).mkdir()
        (folder / name / "slide.tiff").touch()
    (folder / "file").write_text("text\n")
    (folder / "folder").mkdir()
    Image.fromarray(np.full((24, 16, 3), 90, np.uint8)).save(folder / "picture.png")
    for shift, name in enumerate(("real_images", "made_images")):
        (folder / name).mkdir()
        for number in range(4):
            pixels = np.random.default_rng(4 * shift + number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    (folder / "cohort").mkdir()
    shutil.copy(BUNDLED["demo"].slide, folder / "cohort")
    (folder / "labels.csv").write_text("slide,label\na,0\nb,1\n")


@contextlib.contextmanager
def boundaries() -> Iterator[None]:
    """Replace training, preparing, sampling and drawing; models are loaded once."""
    load = cache(lambda *given, **named: _load(*given, **named))
    empty = SimpleNamespace(slides=[])
    measured = Report([], "", Sheet())
    stubs: list[tuple[Any, str, Any]] = [
        (training, "prepare_when_absent", lambda *_, **__: None),
        (training, "split_when_absent", lambda *_, **__: None),
        (training, "train", lambda *_, **__: 0),
        (preparation, "prepare", lambda *_, **__: []),
        (preparation, "table", lambda *_, **__: ""),
        (ZoomLDM, "load", staticmethod(load)),
        (ZoomLDM, "sample", lambda model, scale, count, *_, **__: np.zeros((count, 128, 128, 3), np.uint8)),
        (joint_work, "sample", lambda *_, **__: {}),
        (joint_work, "write", lambda *_, **__: {}),
        (FeatureExtractor, "__call__", lambda *_, **__: None),
        (mil_work, "labelled", lambda *_, **__: empty),
        (mil_work, "compare", lambda *_, **__: []),
        (mil_work, "write_attention", lambda *_, **__: ""),
        (mil_work, "table", lambda *_, **__: ""),
        (evaluation, "RUNS", dict.fromkeys(evaluation.RUNS, lambda args, fabric, _: _measured(args, fabric, measured))),
        (crops, "cut", lambda *_, **__: []),
        (demo_world, "write_slide", lambda *_, **__: None),
        (demo_world, "write_true_map", lambda *_, **__: None),
        (demo_world, "overview", lambda *_, **__: None),
        (explore_work, "World", lambda *_, **__: SimpleNamespace(close=lambda: None)),
        (explore_work, "write", lambda *_, **__: None),
        (view_work, "Site", lambda *_, **__: None),
        (view_work, "serve", lambda *_, **__: None),
        (view_work, "export", lambda _, folder: folder),
    ]
    with contextlib.ExitStack() as stack:
        for place, name, stub in stubs:
            stack.enter_context(mock.patch.object(place, name, stub))
        stack.enter_context(mock.patch.dict(os.environ))
        yield


_load = ZoomLDM.load


def _measured(args: Any, fabric: Any, report: Report) -> Report:
    evaluation.load(args, fabric)
    evaluation.extractors(args, args.space, "demo", str(fabric.device))
    return report


class CommandLine(NamedTuple):
    """A drawn command line, and whether it is valid."""

    command: str
    arguments: list[str]
    sound: bool


def draw(name: str, command: Grammar, rng: Generator) -> CommandLine:
    """Draw up to three options and overrides; half of the lines have an invalid one."""
    grammar = {**command.options, **command.overrides}
    keys = list(rng.choice(list(grammar), size=min(len(grammar), int(rng.integers(1, 4))), replace=False))
    if any(other.startswith(f"{key}.") for key in keys for other in keys):
        keys = keys[:1]  # a section and one of its keys would override each other
    wrong = rng.random() < 0.6
    pairs, sound = [], True
    for number, key in enumerate(keys):
        values = grammar[key]
        bad = (wrong and number == 0) or not values.good
        pairs.append((key, str(rng.choice(values.bad if bad else values.good))))
        sound &= not bad
    sound &= not command.contradict(dict(pairs))
    arguments = [f"{key}={value}" for key, value in pairs]
    return CommandLine(name, [*command.start, *arguments], sound)


def _alarm(number: int, frame: FrameType | None) -> None:
    raise TimeoutError


def outcome(command: Grammar, line: CommandLine) -> str:
    """Returns "refused" or "done" where correct; else what is wrong."""
    out, err = io.StringIO(), io.StringIO()
    before = signal.signal(signal.SIGALRM, _alarm)
    signal.alarm(LONGEST_S)
    try:
        os.environ.pop("ZOOMLDM_RUN", None)
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cli(lambda: command.main(list(line.arguments)))
        return "ended without a status"
    except SystemExit as end:
        status = end.code
    except TimeoutError:
        return "hang"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    told = [text for text in err.getvalue().splitlines() if not text.startswith(("precision: ", "warning: "))]
    if status == 2:
        if line.sound:
            return f"refused though sound: {told[-1][:160] if told else 'nothing said'}"
        return "refused" if len(told) == 1 and told[0].startswith("error: ") else f"refused in {len(told)} lines"
    if status == 0:
        return "done" if line.sound else "senseless success"
    return f"status {status}"


def outcomes(folder: Path, count: int, seed: int = 0) -> Iterator[tuple[CommandLine, str]]:
    """`count` lines of every command in turn, each in a fresh folder."""
    rng = np.random.default_rng(seed)
    known = commands()
    threads = torch.get_num_threads()
    with boundaries(), contextlib.chdir(folder):
        for number in range(count):
            name = list(known)[number % len(known)]
            with contextlib.chdir(folder):
                place = folder / str(number)
                place.mkdir()
                world(place)
                with contextlib.chdir(place):
                    line = draw(name, known[name], rng)
                    yield line, outcome(known[name], line)
            shutil.rmtree(place)
    torch.set_num_threads(threads)


def measure(folder: Path, count: int) -> str:
    """Outcomes of `count` lines, and the first line of each wrong outcome."""
    found: Counter[str] = Counter()
    wrong = []
    for line, ended in tqdm(outcomes(folder, count, seed=1), total=count, unit="line"):
        found[ended.partition(":")[0]] += 1
        if ended not in GOOD:
            wrong.append(f"{line.command} {line.arguments[len(commands()[line.command].start) :]}: {ended}")
    for text in wrong:
        tqdm.write(text)
    parts = ", ".join(f"{number} {name}" for name, number in sorted(found.items()))
    return f"{len(wrong)} wrong of {count} ({parts})"
