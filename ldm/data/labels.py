"""Slide labels for multiple-instance learning, from a CSV with the columns slide, label and, where known, patient."""

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ldm.data.splits import patient_of
from ldm.errors import UserError


@dataclass(frozen=True, eq=False)
class Labels:
    """m labelled slides."""

    slides: list[str]
    values: NDArray[np.int64]
    """(m,) 0 or 1"""
    names: list[str]
    """what 0 and 1 stand for"""
    patients: list[str]

    def only(self, slides: set[str]) -> "Labels":
        """Those of some slides. UserError when they do not have both labels."""
        kept = [i for i, slide in enumerate(self.slides) if slide in slides]
        found = sorted({self.names[i] for i in self.values[kept]})
        if len(found) < 2:
            raise UserError(
                f"labels: {len(kept)} of {len(self.slides)} slides have bags, labelled {', '.join(found) or 'none'}; "
                f"expected both {' and '.join(self.names)}"
            )
        patients = [self.patients[i] for i in kept]
        return Labels([self.slides[i] for i in kept], self.values[kept], self.names, patients)

    def shuffled(self, seed: int) -> "Labels":
        """The same slides, their patients with each other's labels; a patient of two labels counts by the last."""
        label_of = dict(zip(self.patients, self.values.tolist(), strict=True))
        mixed = np.random.default_rng(seed).permutation(list(label_of.values()))
        other = dict(zip(label_of, mixed.tolist(), strict=True))
        return replace(self, values=np.array([other[patient] for patient in self.patients]))


def read_labels(path: str | Path) -> Labels:
    """Slides are named as their bags are, without .h5. A patient not given is read off the slide's TCGA barcode,
    or is the slide itself. The two labels are taken in order of the alphabet (numbers in theirs).

    UserError for a file without the columns, a slide named twice, or more or fewer than two labels.
    """
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); expected a CSV with columns slide, label") from error
    if not rows or not {"slide", "label"} <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "no rows"
        raise UserError(f"{path}: has {found}; expected a CSV with columns slide, label and perhaps patient")
    slides = [row["slide"] for row in rows]
    twice = {slide for slide in slides if slides.count(slide) > 1}
    names = sorted({row["label"] for row in rows}, key=lambda name: (len(name), name) if name.isdigit() else (0, name))
    if twice or len(names) != 2:
        found = f"{min(twice)} twice" if twice else f"labels {', '.join(names)}"
        raise UserError(f"{path}: has {found}; expected every slide once and two labels")
    values = np.array([names.index(row["label"]) for row in rows])
    return Labels(slides, values, names, [row.get("patient") or patient_of(row["slide"]) for row in rows])
