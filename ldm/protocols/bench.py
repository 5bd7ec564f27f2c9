"""What every experiment is given, and what it hands back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.errors import UserError
from ldm.evaluation.extractors import Extractor
from ldm.io import Pixels
from ldm.pipeline import ZoomLDM
from ldm.processes import ALONE, Processes

SHOWN = 4
"""pictures of each method on a sheet"""


@dataclass(frozen=True)
class Bench:
    """The model, if any, the spaces to compare in, and how the work is done."""

    loaded: ZoomLDM | None
    spaces: Sequence[Extractor]
    out: Path
    seed: int = 0
    batch: int = 16
    processes: Processes = ALONE

    @property
    def model(self) -> ZoomLDM:
        """UserError when none was loaded."""
        if self.loaded is None:
            raise UserError("--model: none, and something is to be sampled; give demo, a run folder or a weights file")
        return self.loaded

    @property
    def samples(self) -> Path:
        """The folder of the images that are made; what one experiment made another finds."""
        return self.out / "samples"

    @property
    def identity(self) -> dict[str, Any]:
        """What every image that is made here depends on."""
        return {"model": self.model.id, "precision": self.model.precision, "seed": self.seed}


@dataclass
class Sheet:
    """Pictures in labelled rows and columns."""

    rows: list[list[Pixels]] = field(default_factory=list)
    row_labels: list[str] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Figures, the tables that show them, and a picture."""

    records: list[dict[str, Any]]
    text: str
    sheet: Sheet
