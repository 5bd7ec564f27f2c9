"""A cohort: the prepared slides of a folder, made with one set of settings, each once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.support.typed import typed

SHARED = ("kind", "scales", "tile_px", "encoder", "autoencoder")
"""attributes that the slides of a cohort have in common, whether they record their settings or not"""


def prepared_slides(folder: str | Path) -> list[SlideFile]:
    """Every prepared slide of `folder`, sorted by path, unread. UserError when there is none."""
    files = sorted(Path(folder).rglob("*.h5"))
    if not files:
        what = "; it is a file, expected their folder" if Path(folder).is_file() else "; it does not exist"
        what = "" if Path(folder).is_dir() else what
        raise UserError(f"data: {folder} holds no prepared slide (*.h5){what}; make them with {typed('prepare')}")
    return [SlideFile(file) for file in files]


def open_cohort(folder: str | Path) -> list[SlideFile]:
    """Every prepared slide of `folder`, sorted by path. UserError when there is none, and as `refuse_mixture`."""
    slides = prepared_slides(folder)
    refuse_mixture(slides)
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
