"""Slide labels from a CSV with the columns slide, label and, where known, patient.

For multiple-instance learning, which takes two of them, and for a CDM, which takes any number.
"""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldm.data.split_file import patient_of, patient_stated
from ldm.errors import UserError
from ldm.support.csv_table import Row, is_known, read_csv, refuse_variants

UNCLEAR = {"none", "-", "--", "."}
"""texts that may be a label or mean that there is none"""


@dataclass(frozen=True, eq=False)
class Labels:
    """m labelled slides."""

    slides: list[str]
    values: NDArray[np.int64]
    """(m,) 0 or 1"""
    names: list[str]
    """names of label 0 and label 1"""
    patients: list[str]
    unlabelled: int = 0
    """number of rows without a label, which were left out"""

    def only(self, slides: set[str]) -> "Labels":
        """The labels of some slides. UserError unless both labels occur."""
        kept = [i for i, slide in enumerate(self.slides) if slide in slides]
        found = sorted({self.names[i] for i in self.values[kept]})
        if len(found) < 2:
            raise UserError(
                f"labels: {len(kept)} of {len(self.slides)} slides have bags, labelled {', '.join(found) or 'none'}; "
                f"expected both {' and '.join(self.names)}"
            )
        patients = [self.patients[i] for i in kept]
        return replace(self, slides=[self.slides[i] for i in kept], values=self.values[kept], patients=patients)

    def shuffled(self, seed: int) -> "Labels":
        """The same slides with labels permuted between patients; a patient with both labels counts by the last."""
        label_of = dict(zip(self.patients, self.values.tolist(), strict=True))
        mixed = np.random.default_rng(seed).permutation(list(label_of.values()))
        other = dict(zip(label_of, mixed.tolist(), strict=True))
        return replace(self, values=np.array([other[patient] for patient in self.patients]))

    def __str__(self) -> str:
        counts = np.bincount(self.values, minlength=2)
        told = " and ".join(f"{count} {name}" for count, name in zip(counts, self.names, strict=True))
        return f"{told}; {self.unlabelled} without a label: left out" if self.unlabelled else told


def read_labels(path: str | Path) -> Labels:
    """Slides are named as their bags are, without .h5. A slide without a label is left out, and counted.

    A missing patient is taken from the slide's TCGA barcode, or is the slide itself. The two labels are sorted
    alphabetically (numbers numerically).

    UserError for a file without the columns, a slide named twice, more or fewer than two labels, and labels or patients
    that differ only in spelling.
    """
    every, rows = _labelled_rows(path)
    names = sorted(
        {row.cells["label"] for row in rows}, key=lambda name: (len(name), name) if name.isdecimal() else (0, name)
    )
    if len(names) != 2:
        counts = Counter(row.cells["label"] for row in rows)
        found = ", ".join(f"{name} ({counts[name]})" for name in names[:8]) or "none"
        raise UserError(f"{path}: has the labels {found}, expected two; leave the label of other slides empty")
    patients = [patient_stated(row.cells) or patient_of(row.cells["slide"]) for row in rows]
    refuse_variants(path, "patients", ((row.line, patient) for row, patient in zip(rows, patients, strict=True)))
    values = np.array([names.index(row.cells["label"]) for row in rows])
    slides = [row.cells["slide"] for row in rows]
    return Labels(slides, values, names, patients, len(every) - len(rows))


def slide_labels(path: str | Path) -> dict[str, str]:
    """The label of every labelled slide, of any number of labels. UserError as `read_labels`, or for fewer than two."""
    _, rows = _labelled_rows(path)
    found = {row.cells["slide"]: row.cells["label"] for row in rows}
    if len(set(found.values())) < 2:
        raise UserError(f"{path}: has the labels {', '.join(set(found.values())) or 'none'}; expected at least two")
    return found


def _labelled_rows(path: str | Path) -> tuple[list[Row], list[Row]]:
    """All rows, and those with a label."""
    every = read_csv(path, ["slide", "label"], ["patient"]).rows
    _refuse_repeats(path, every)
    rows = [row for row in every if is_known(row.cells["label"])]
    _refuse_unclear(path, rows)
    refuse_variants(path, "labels", ((row.line, row.cells["label"]) for row in rows))
    return every, rows


def _refuse_unclear(path: str | Path, rows: list[Row]) -> None:
    if {row.cells["label"] for row in rows} == {"+", "-"}:
        return
    for row in rows:
        if row.cells["label"].casefold() in UNCLEAR:
            raise UserError(
                f"{path}: line {row.line} has the label {row.cells['label']!r}, which may mean none or a kind; leave "
                "it empty, or write the kind's name otherwise"
            )


def _refuse_repeats(path: str | Path, rows: list[Row]) -> None:
    lines: dict[str, int] = {}
    for row in rows:
        slide = row.cells["slide"]
        if not slide:
            raise UserError(f"{path}: line {row.line} names no slide; fill in the column slide, or remove the line")
        if slide in lines:
            raise UserError(f"{path}: line {row.line} has {slide} again, as line {lines[slide]} does; remove one")
        lines[slide] = row.line
