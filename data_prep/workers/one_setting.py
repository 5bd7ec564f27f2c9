"""A folder takes slides of one setting: whoever prepares into it agrees with what is there and with who is at work.

    <out>/settings.json         the settings of the preparation that came first; created exclusively

Prepared files carry their settings and are asked first. The file stands for those that are still being made: two
commands that start at the same time into an empty folder cannot both create it. One that a killed or finished command
left, and no prepared file bears out, is replaced.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldm.data.cohort import differences
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.support.files import full_disk_told, is_gone, writer

NAME = "settings.json"
ELSEWHERE = "choose another folder with out=FOLDER, or ask for the same"


def claim_folder(out: Path, wanted: dict[str, Any]) -> None:
    """Agree on the settings `wanted` for the folder `out`. UserError when it has others: the file, and what differs."""
    for path in sorted(out.rglob("*.h5")):
        if (found := _settings(path)) and (told := differences(found, wanted, "this command")):
            raise UserError(f"{path}: {told}; {ELSEWHERE}")
    path = out / NAME
    while not _created(path, wanted):
        owner, found = _read(path)
        if found == wanted:
            return
        if found and owner != writer() and not is_gone(owner):
            told = differences(found, wanted, "this command")
            raise UserError(f"{path}: {told}; {ELSEWHERE}, or remove the file when nobody prepares into the folder")
        path.unlink(missing_ok=True)


def check_folder(out: Path, wanted: dict[str, Any]) -> None:
    """UserError when a command with other settings has taken the folder over since `claim_folder`."""
    _, found = _read(out / NAME)
    if found and (told := differences(found, wanted, "this command")):
        raise UserError(f"{out / NAME}: {told}; {ELSEWHERE}")


def refuse_strangers(out: Path, targets: Iterable[Path]) -> int:
    """How many of the files `targets` are there without settings, as earlier versions made them, to be made again.

    UserError for any other file that trainings would refuse.
    """
    known, older = set(targets), 0
    for path in sorted(out.rglob("*.h5")):
        if _settings(path):
            continue
        if path not in known:
            raise UserError(
                f"{path}: lies in the cohort's folder, is none of its slides and does not say how it was prepared; "
                "move it away, or choose another folder with out=FOLDER"
            )
        older += 1
    return older


def _settings(path: Path) -> dict[str, Any]:
    """Those of a prepared file; none for one of an earlier version, or damaged."""
    try:
        return SlideFile(path).settings
    except UserError:
        return {}


def _created(path: Path, wanted: dict[str, Any]) -> bool:
    """Whether the file could be created; it appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{writer()}.partial")
    with full_disk_told(path):
        try:
            partial.write_text(json.dumps({"writer": writer(), "settings": wanted}, indent=1) + "\n")
            os.link(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
    return True


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Who created the file, and the settings in it; nothing when it is damaged or gone."""
    try:
        found = json.loads(path.read_text())
        return str(found["writer"]), dict(found["settings"])
    except (OSError, ValueError, TypeError, KeyError):
        return "", {}
