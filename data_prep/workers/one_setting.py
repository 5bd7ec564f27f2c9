"""A folder holds slides of one set of settings: commands check the files there, and each other's settings.

    <out>/settings.json         settings of the first preparation; created exclusively

Settings in prepared files are checked first. settings.json represents files that are still being made: of two commands
that start at the same time in an empty folder, only one can create it. One that was left by a killed or finished
command and agrees with no prepared file is replaced.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ldm.data.cohort import differences
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.support.files import is_gone, report_disk_full, writer

NAME = "settings.json"
ELSEWHERE = "choose another folder with out=FOLDER, or ask for the same"


def claim_folder(out: Path, wanted: dict[str, Any]) -> None:
    """Claim the folder `out` for the settings `wanted`. UserError when it has others: the file, and the differences."""
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


def refuse_foreign_files(out: Path, targets: Iterable[Path]) -> int:
    """The number of existing `targets` without settings (of earlier versions), which will be made again.

    UserError for any other file that training would refuse.
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
    """Settings of a prepared file; empty for a damaged one or one of an earlier version."""
    try:
        return SlideFile(path).settings
    except UserError:
        return {}


def _created(path: Path, wanted: dict[str, Any]) -> bool:
    """Create the file exclusively and atomically; whether it was created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{writer()}.partial")
    with report_disk_full(path):
        try:
            partial.write_text(json.dumps({"writer": writer(), "settings": wanted}, indent=1) + "\n")
            os.link(partial, path)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
    return True


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    """Creator of the file, and its settings; empty when it is damaged or missing."""
    try:
        found = json.loads(path.read_text())
        return str(found["writer"]), dict(found["settings"])
    except (OSError, ValueError, TypeError, KeyError):
        return "", {}
