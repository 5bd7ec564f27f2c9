"""The reader of all CSV files: labels, splits, tables of slides.

UTF-8 with or without a byte-order mark, separated by commas; a header line, then one line per row. Lines that begin
with # and empty lines are ignored, spaces around cells are stripped, text is normalised to NFC. Anything else is
refused # with its line: other separators, a row with too few cells, a quote that is not closed.
"""

import csv
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

from ldm.errors import UserError

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
LINE_END = re.compile(r"\r\n|\r|\n")
NOTHING = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "nil", "missing", "unknown", "?"}
"""texts for a missing value in R, pandas and spreadsheets, in lower case"""
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


class Row(NamedTuple):
    """A line of the file, counted from 1, and its cells by column."""

    line: int
    cells: dict[str, str]


class Table(NamedTuple):
    """Columns in order, and rows."""

    columns: list[str]
    rows: list[Row]


def read_csv(path: str | Path, required: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read the file `path`, which has the columns `required`; `optional` ones are only named in messages.

    UserError, with the line, when it is missing, no CSV in UTF-8 separated by commas, or lacks a column or a cell.
    """
    expected = ",".join([*required, *(f"[{name}]" for name in optional)])
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"{path}: cannot be read ({reason}); expected a CSV in UTF-8 with columns {expected}"
        ) from error
    records = _records(path, text)
    number, columns = next(records, (1, []))
    _check_columns(f"{path}: line {number}", columns, required, expected)
    return Table([name for name in columns if name], [_row(path, line, cells, columns) for line, cells in records])


def _records(path: str | Path, text: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells, without comments and empty rows."""
    for number, line in enumerate(LINE_END.split(text), start=1):
        if line.lstrip().startswith("#"):
            continue
        try:
            cells = next(csv.reader([line], strict=True, skipinitialspace=True), [])
        except csv.Error as error:
            remedy = "a quote is closed on its line, and followed by a comma or nothing"
            raise UserError(f"{path}: line {number}: {line[:60]!r} found ({error}); {remedy}") from error
        cells = [unicodedata.normalize("NFC", cell).strip() for cell in cells]
        if any(letter != "\t" and unicodedata.category(letter) == "Cc" for cell in cells for letter in cell):
            raise UserError(f"{path}: line {number}: {line[:60]!r} holds control characters; save it as text, UTF-8")
        if any(cells):
            yield number, cells


def _check_columns(where: str, columns: Sequence[str], required: Sequence[str], expected: str) -> None:
    named = [name for name in columns if name]
    twice = next((name for name in named if named.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: has two columns {twice}; rename or remove one")
    if set(required) <= set(named):
        return
    found = ", ".join(named) or "nothing"
    separator = next((name for mark, name in SEPARATORS.items() if mark in found), None)
    hint = f"it is separated by {separator}: save it separated by commas" if separator else "name the columns there"
    raise UserError(f"{where}: has the columns {found}; expected {expected}; {hint}")


def _row(path: str | Path, line: int, cells: list[str], columns: Sequence[str]) -> Row:
    while len(cells) > len(columns) and not cells[-1]:
        cells = cells[:-1]
    if len(cells) != len(columns):
        remedy = "quote cells that hold commas" if len(cells) > len(columns) else "an empty cell needs its comma too"
        raise UserError(
            f"{path}: line {line}: {','.join(cells)[:60]!r} found, {len(cells)} cells, "
            f"expected {len(columns)}; {remedy}"
        )
    return Row(line, {name: cell for name, cell in zip(columns, cells, strict=True) if name})


def is_known(cell: str) -> bool:
    """Whether a cell has a value."""
    return cell.casefold() not in NOTHING


def alike(text: str) -> str | Decimal:
    """Normal form of a name: without case, width, spaces and invisible characters; numbers by value."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKC", text) if unicodedata.category(letter) != "Cf")
    plain = " ".join(plain.casefold().split())
    return Decimal(plain) if NUMBER.fullmatch(plain) else plain


def refuse_variants(path: str | Path, what: str, values: Iterable[tuple[int, str]]) -> None:
    """UserError when two `values` (line, text) differ only in case, spaces or the notation of a number.

    They would silently count as different. `what` names them in the message: "labels".
    """
    first: dict[str | Decimal, tuple[int, str]] = {}
    for line, text in values:
        other_line, other = first.setdefault(alike(text), (line, text))
        if other != text:
            raise UserError(
                f"{path}: line {other_line} has {other!r} and line {line} {text!r}, {what} that differ in spelling "
                "alone; write both the same way, or tell them apart"
            )
