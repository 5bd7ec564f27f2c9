"""A cohort: the prepared slides of a folder, made with one set of settings, each once."""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.support.typed import typed

SHARED = ("kind", "scales", "tile_px", "encoder", "autoencoder")
"""attributes that the slides of a cohort have in common, whether they record their settings or not"""


class Unprepared(NamedTuple):
    """Slides of a cohort's preparation that it has not prepared."""

    pending: list[str]
    failed: list[str]


def unprepared(folder: str | Path) -> Unprepared:
    """What the report of the preparation says (data_prep/report/outcomes.py); nothing without a report."""
    try:
        reports = json.loads((Path(folder) / "report.json").read_text(encoding="utf-8"))
        lists = ([r["slide_id"] for r in reports if r["status"] == status] for status in ("waiting", "failed"))
        return Unprepared(*lists)
    except (OSError, ValueError, TypeError, KeyError):
        return Unprepared([], [])


def incompleteness(folder: str | Path, slide_ids: Sequence[str]) -> str:
    """How many of how many slides of a preparation are there, if not all, beside those with `slide_ids`; else empty."""
    pending, failed = ([name for name in names if name not in slide_ids] for names in unprepared(folder))
    if not pending and not failed:
        return ""
    told = []
    if pending:
        told.append(
            f"{len(pending)} are pending ({pending[0]} first): the same command of {typed('prepare')} continues"
        )
    if failed:
        told.append(f"{len(failed)} failed ({failed[0]} first): see {Path(folder) / 'report.json'}")
    count = len(slide_ids) + len(pending) + len(failed)
    return f"{folder}: {len(slide_ids)} of {count} slides are prepared; {', '.join(told)}"


@cache
def _told(note: str) -> None:
    """Print a note once, in the first process."""
    if all(os.environ.get(key, "0") == "0" for key in ("RANK", "LOCAL_RANK")):
        print(note, file=sys.stderr)


def prepared_slides(folder: str | Path) -> list[SlideFile]:
    """Every prepared slide of `folder`, sorted by path, unread. UserError when there is none."""
    files = sorted(Path(folder).rglob("*.h5"))
    if not files:
        what = "; it is a file, expected their folder" if Path(folder).is_file() else "; it does not exist"
        what = "" if Path(folder).is_dir() else what
        raise UserError(f"data: {folder} holds no prepared slide (*.h5){what}; make them with {typed('prepare')}")
    return [SlideFile(file) for file in files]


def open_cohort(folder: str | Path) -> list[SlideFile]:
    """Every prepared slide of `folder`, sorted by path. UserError when there is none, and as `refuse_mixture`.

    Where its preparation was stopped, or failed for some slides, that is printed.
    """
    slides = prepared_slides(folder)
    refuse_mixture(slides)
    if note := incompleteness(folder, [str(slide.attrs["slide_id"]) for slide in slides]):
        _told(note)
    return slides


def refuse_mixture(slides: Sequence[SlideFile]) -> None:
    """UserError when two slides have one id, or were prepared with different settings: both files, and what differs.

    Slides of earlier versions do not record their settings: only SHARED is checked for them, and they are not mixed
    with slides that do.
    """
    paths: dict[str, Path] = {}
    first = slides[0]
    for slide in slides:
        other = paths.setdefault(slide.attrs["slide_id"], slide.path)
        if other != slide.path:
            raise UserError(f"{slide.path}: slide_id is {slide.attrs['slide_id']}, as in {other}; remove one of them")
        if bool(slide.settings) != bool(first.settings):
            older, newer = (first, slide) if slide.settings else (slide, first)
            raise UserError(
                f"{older.path}: an earlier version prepared it and did not record its settings, as {newer.path} does; "
                "prepare it again"
            )
        found, expected = ({key: of.attrs[key] for key in SHARED} | of.settings for of in (slide, first))
        if told := differences(found, expected, str(first.path)):
            raise UserError(f"{slide.path}: {told}; prepare both with one config")


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], owner: str) -> str:
    """Differences of `found` from `expected`, the settings of `owner`; empty when there are none."""
    keys = [key for key in dict.fromkeys([*found, *expected]) if found.get(key) != expected.get(key)]
    return "; ".join(
        f"{key} is {_shown(found.get(key))}, but {owner if key == keys[0] else 'there'} has {_shown(expected.get(key))}"
        for key in keys
    )


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "") else str(value)
