"""What every experiment is given, and what it hands back."""

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
"""pictures of each method on a sheet"""


@dataclass(frozen=True)
class EvalContext:
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

    def identity(self, weights: Mapping[str, str], inputs: Mapping[str, Any], settings: Mapping[str, Any]) -> Identity:
        """What images that are made here depend on: the arguments, and what all of them do."""
        own: dict[str, Any] = {"precision": self.model.precision, "device": self.model.device.type}
        own |= {"seed": self.seed, "batch": self.batch}  # the size of a batch moves the last digits
        return Identity("samples", {**self.model.weights, **weights}, inputs, {**own, **settings})

    def identity_of(
        self, method: "Method", files: Sequence[Path], scales: Sequence[str], embed: "Embedder | None"
    ) -> Identity:
        """What the images of `method` from `files` depend on; `embed` where it embeds them."""
        weights = {**method.weights, **({"encoder": embed.id} if embed else {})}
        inputs = {str(number): content(path) for number, path in enumerate(files)}
        return self.identity(weights, inputs, {"scales": list(scales), "method": dict(method.settings)})


class Embedder(Protocol):
    """The model's own tile encoder."""

    @property
    def id(self) -> str:
        """Names its weights."""

    def __call__(self, tiles: Tensor, /) -> Tensor:
        """uint8 (b, H, W, 3) -> float32 (b, d)."""


class Method(Protocol):
    """A way to make images, which declares all that they depend on besides the model and what it is given.

    Nothing of it is looked for elsewhere: images that were kept are found by what is declared here.
    """

    @property
    def weights(self) -> Mapping[str, str]:
        """Names of the weights of networks that are not the model's."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """JSON values."""

    @property
    def embeds(self) -> bool:
        """Whether it asks for embeddings of the real image."""


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
