"""The user's table of slides: a CSV with a header line and one row per slide.

    slide,mpp,patient,subtype
    TCGA-A1-A0SB-01Z-00-DX1.svs,0.2520,TCGA-A1-A0SB,IDC

`slide` is a slide's id, its path inside the folder or its file name; `mpp` its um (m) per pixel, empty to use the
file's; `patient` and all other columns are for splits and labels. A row is a statement about one slide, so its mpp
overrides the file's.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ldm.errors import UserError
from ldm.support.csv_table import read_csv


class SlideRow(NamedTuple):
    """One slide's line of the table."""

    line: int
    slide: str
    mpp: float | None
    values: dict[str, str]
    """every other column, `patient` among them"""


def read_table(path: str | Path) -> list[SlideRow]:
    """Read the rows. UserError for a file that is missing or not a CSV, has no column `slide`, or an invalid mpp."""
    return [_row(path, line, dict(cells)) for line, cells in read_csv(path, ["slide"], ["mpp", "patient"]).rows]


def _row(path: str | Path, line: int, cells: dict[str, str]) -> SlideRow:
    where = f"{path}: line {line}"
    slide, mpp = cells.pop("slide"), cells.pop("mpp", "")
    if not slide:
        raise UserError(f"{where} names no slide; fill in the column slide, or remove the line")
    try:
        return SlideRow(line, slide, float(mpp) if mpp else None, cells)
    except ValueError as error:
        raise UserError(f"{where}: mpp {mpp} found, expected a number such as 0.25, or nothing") from error


def match_rows(
    path: str | Path, rows: Sequence[SlideRow], slides: Mapping[str, str], strict: bool = True
) -> dict[str, SlideRow]:
    """The row of each slide that has one; `slides` maps ids to files (relative paths, or names).

    Raises UserError for a row that names several slides or, when `strict`, none, and for two rows of one slide.
    """
    known: dict[str, set[str]] = {}
    for slide_id, file in slides.items():
        source = PurePosixPath(file)
        for name in (slide_id, file, str(source.with_suffix("")), source.name, source.stem):
            known.setdefault(unicodedata.normalize("NFC", name), set()).add(slide_id)
    matched: dict[str, SlideRow] = {}
    for row in rows:
        where, found = f"{path}: line {row.line}", sorted(known.get(row.slide, ()))
        if not found and not strict:
            continue
        if not found:
            raise UserError(f"{where} names {row.slide}, which is none of the {len(slides)} slides; correct it")
        if len(found) > 1:
            raise UserError(f"{where} names {row.slide}, which may be {' or '.join(found)}; write one of these")
        if found[0] in matched:
            raise UserError(f"{where} names {row.slide}, as line {matched[found[0]].line} does; remove one")
        matched[found[0]] = row
    return matched
