"""Inputs and outputs that all experiments share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from ldm.errors import UserError
from ldm.evaluation.metrics.extractors import Extractor
from ldm.images.contact_sheet import Pixels
from ldm.pipeline import ZoomLDM
from ldm.support.cache import Identity, content
from ldm.support.processes import ALONE, Processes

SHOWN = 4
"""images per method on a contact sheet"""


@dataclass(frozen=True)
class EvalContext:
    """The model, if any, the feature spaces, and how the work is done."""

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
            raise UserError("--model: none, and something is to be sampled; give a bundled one, a run or a file")
        return self.loaded

    @property
    def samples(self) -> Path:
        """The folder of generated images, which experiments share."""
        return self.out / "samples"

    def identity(self, weights: Mapping[str, str], inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> Identity:
        """Identity of generated images: the arguments, and what all images depend on."""
        own = {**self.model.arithmetic, "seed": self.seed, "batch": self.batch}  # a batch's size moves the last digits
        return Identity("samples", {**self.model.weights, **weights}, inputs, {**own, **settings})

    def identity_of(
        self, method: "Method", files: Sequence[Path], scales: Sequence[str], embed: "Embedder | None"
    ) -> Identity:
        """Identity of the images of `method` from `files`; includes `embed` if the method uses embeddings."""
        weights = {**method.weights, **({"encoder": embed.id} if embed else {})}
        inputs = {str(number): content(path) for number, path in enumerate(files)}
        return self.identity(weights, inputs, {"scales": list(scales), "method": dict(method.settings)})


class Embedder(Protocol):
    """The model's own tile encoder."""

    @property
    def id(self) -> str:
        """Id of its weights."""

    def __call__(self, tiles: Tensor, /) -> Tensor:
        """uint8 (b, H, W, 3) -> float32 (b, d)."""


class Method(Protocol):
    """A way to make images. It declares everything that they depend on besides the model and its arguments.

    Cached images are found by this declaration, so an undeclared dependency would give outdated images.
    """

    @property
    def weights(self) -> Mapping[str, str]:
        """Ids of the weights of networks that are not the model's."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values."""

    @property
    def embeds(self) -> bool:
        """Whether it uses embeddings of the real image."""


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
