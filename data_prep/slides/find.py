"""Find the slides of a folder, their ids, and their rows in the table.

An id is the path inside the folder, without suffix, in a safe alphabet (ldm/data/ids.py). Invalid slides and files with
the same id are listed too, with an error. Only hidden files and parts of slides of several files are left out silently:
the first file of a DICOM series represents the series, and a Hamamatsu index the pictures that it names.
"""

import os
from pathlib import Path
from typing import NamedTuple

from data_prep.preparation_config import PrepareConfig
from data_prep.slides.metadata import match_rows, read_table
from ldm.data.ids import safe_id
from ldm.errors import UserError
from ldm.images.picture_files import PICTURE_SUFFIXES

OPENSLIDE = (".svs", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".czi")
TIFF_LIKE = (".qptiff", ".ptif", ".ptiff", ".zif", ".lsm", ".stk")
SCENES = (".img", ".ntf", ".nitf")
SUFFIXES = {*OPENSLIDE, *TIFF_LIKE, *SCENES, *PICTURE_SUFFIXES}
ANNOTATIONS = ".geojson"
"""suffix of annotations, which often lie beside slides"""
NAMED = 3
"""number of left-out files of one suffix that a message names"""
HAMAMATSU_INDEX = {".vms", ".vmu"}
INDEX_BYTES = 2**16
SERIES_UID = b"\x20\x00\x0e\x00UI"
"""bytes of the tag (0020,000E), SeriesInstanceUID"""


class Task(NamedTuple):
    """A slide to prepare."""

    path: Path
    slide_id: str
    target: Path
    mpp: float | None = None
    """um or m per pixel, when the table gives it"""
    refusal: str = ""
    """why it cannot be prepared, if known without opening it"""
    parts: tuple[Path, ...] = ()
    """further files that the slide consists of"""


def find_slides(config: PrepareConfig) -> list[Task]:
    """The slides of a cohort, in order. UserError when there is none, or the table does not fit them."""
    folder = Path(config.slides)
    alike: dict[str, list[Path]] = {}  # file systems may be case-insensitive
    slides = without_parts(slide_files(folder, config.pattern))
    for path in slides:
        alike.setdefault(_id(path, folder).casefold(), []).append(path)
    tasks: dict[str, Task] = {}
    for paths in alike.values():
        slide_id = _id(paths[0], folder)
        names = [shown(path) for path in paths]
        both = f"{', '.join(names[:-1])} and {names[-1]} would {'both' if len(names) == 2 else 'all'} be {slide_id}"
        refusal = f"{both}; rename {'one' if len(names) == 2 else 'all but one'}" if len(names) > 1 else ""
        target = Path(config.out) / f"{slide_id}.h5"
        parts = tuple(slides[paths[0]])
        tasks[slide_id] = Task(paths[0], slide_id, target, refusal=refusal or _refusal(paths[0]), parts=parts)
    if not tasks:
        what = "" if folder.is_dir() else ", it is a file" if folder.exists() else ", it does not exist"
        left = left_out(config)
        what += f" ({left})" if left else ""
        raise UserError(
            f"slides: {folder} holds no slide that matches {config.pattern}{what}; check slides and pattern"
        )
    if config.coordinates or config.encoder.embeddings:
        _refuse_shared_names(tasks)
    if config.table is None:
        return list(tasks.values())
    files = {slide_id: task.path.relative_to(folder).as_posix() for slide_id, task in tasks.items()}
    rows = match_rows(config.table, read_table(config.table), files)
    return [task._replace(mpp=rows[task.slide_id].mpp) if task.slide_id in rows else task for task in tasks.values()]


def _id(path: Path, folder: Path) -> str:
    return safe_id(path.relative_to(folder).with_suffix("").as_posix())


def _refuse_shared_names(tasks: dict[str, Task]) -> None:
    """Imported patches are found by a slide's file name: mark slides with the same name as invalid."""
    paths: dict[str, list[Path]] = {}
    for task in tasks.values():
        paths.setdefault(task.path.stem, []).append(task.path)
    for slide_id, task in tasks.items():
        others = [path for path in paths[task.path.stem] if path != task.path]
        if others and not task.refusal:
            refusal = f"{shown(task.path)}: imports are found by name, and {shown(others[0])} has the same; rename one"
            tasks[slide_id] = task._replace(refusal=refusal)


def slide_files(folder: Path, pattern: str) -> list[Path]:
    """Paths with a slide's suffix in `folder` that match `pattern`, sorted; folders only if they contain no slide."""
    paths = [path for path in folder.glob(pattern) if path.suffix.lower() in SUFFIXES]
    files = [path for path in paths if not path.is_dir()]
    empty = [path for path in paths if path.is_dir() and not any(path in file.parents for file in files)]
    return sorted(path for path in files + empty if not path.name.startswith("."))


def left_out(config: PrepareConfig) -> str:
    """A message about files that match the pattern but have other suffixes; empty when there are none."""
    folder, out = Path(config.slides), Path(config.out).resolve()
    root = folder.resolve()
    kinds: dict[str, list[str]] = {}
    for path in sorted(folder.glob(config.pattern)):
        inside = path.relative_to(folder)
        parts = out in (root / inside).parents or any(_is_data_folder(folder / parent) for parent in inside.parents)
        hidden = any(name.startswith(".") for name in inside.parts)
        if path.suffix.lower() not in {*SUFFIXES, ANNOTATIONS} and not hidden and not parts and path.is_file():
            kinds.setdefault(path.suffix.lower() or "no ending", []).append(shown(inside))
    some = [f"{len(names)} of {kind} ({_some(names)})" for kind, names in kinds.items()]
    return f"left out, for no slide has this suffix: {', '.join(some)}" if some else ""


def _is_data_folder(path: Path) -> bool:
    """Whether a folder contains the data of a MIRAX slide beside it."""
    return path.with_name(f"{path.name}.mrxs").is_file()


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")


def without_parts(paths: list[Path]) -> dict[Path, list[Path]]:
    """The main file of each slide, and its other parts."""
    named = {path: _named(path) for path in paths if path.suffix.lower() in HAMAMATSU_INDEX}
    parts = {part for found in named.values() for part in found}
    series: dict[tuple[Path, bytes], Path] = {}
    slides: dict[Path, list[Path]] = {}
    for path in paths:
        uid = _series(path) if path.suffix.lower() == ".dcm" and path.is_file() else b""
        first = series.setdefault((path.parent, uid), path) if uid else path
        if first != path:
            slides.get(first, []).append(path)
        elif path not in parts:
            slides[path] = named.get(path, [])
    return slides


def _named(index: Path) -> list[Path]:
    """The files named in a Hamamatsu index, which consists of lines key=name."""
    if not index.is_file():
        return []
    text = index.read_bytes()[:INDEX_BYTES].decode(errors="replace")
    names = [Path(line.partition("=")[2].strip()).name for line in text.splitlines()]
    return [index.with_name(name) for name in names if name]


def _series(path: Path) -> bytes:
    """The series id of a DICOM file, empty when it is not found."""
    with path.open("rb") as file:
        head = file.read(INDEX_BYTES)
    before, _, after = head.partition(SERIES_UID)
    return after[2 : 2 + int.from_bytes(after[:2], "little")] if before[128:132] == b"DICM" else b""


def shown(path: str | Path) -> str:
    """A path, or a message with one, as one printable line; names may contain any bytes."""
    return " ".join(os.fsencode(path).decode(errors="replace").split())


def _refusal(path: Path) -> str:
    """Why `path` cannot be a slide; empty when it may be one."""
    if path.is_symlink() and not path.exists():
        return f"{shown(path)}: is a link to {os.readlink(path)}, which does not exist; fix the link, or remove it"
    if path.is_dir():
        return f"{shown(path)}: is a folder without a slide, expected a file; copy the slide again"
    if not path.is_file():
        return f"{shown(path)}: is no regular file; remove it"
    return ""
