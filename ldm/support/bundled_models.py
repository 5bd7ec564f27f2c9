"""The models in the package, by name: `demo` of histology, its student `demo-fast`, `satellite` of scenes.

The folder ldm/weights/NAME holds a folder of each network (vq, zoomldm, cdm, and control where there is one), the tile
encoder, which has the model's name, and a prepared slide that no network was trained on. Of a student, which samples in
few steps, only the denoiser is its own: it is in the folder of its teacher. No weights are stored twice: see `SHARED`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ldm.errors import UserError
from ldm.support.bundled_configs import PACKAGE

WEIGHTS = PACKAGE / "weights"
NEEDED = ("vq/weights.safetensors", "zoomldm/weights.safetensors", "cdm/weights.safetensors", "encoder.safetensors")
SHARED = "shared "
"""begins a key of a bundled file's metadata, before a part of the model: its value is the file in WEIGHTS that holds
the part, and that file's sha256"""


@dataclass(frozen=True)
class BundledModel:
    """One of them, and what of the demo world belongs to it."""

    name: str
    kind: str
    """of its ladder, and of the slides that the demo world draws for it"""
    area: str
    """where its configs are in configs/, and its slides in data/"""
    seed: int
    """of its slide"""
    place: tuple[int, int]
    """a base tile (row, col) of that slide, where 512 px to the right and below show several things"""
    teacher: str | None = None
    """the model of which this is a student"""

    @property
    def folder(self) -> Path:
        return WEIGHTS / (self.teacher or self.name)

    @property
    def encoder(self) -> Path:
        """Weights of the tile encoder."""
        return self.folder / "encoder.safetensors"

    @property
    def slide(self) -> Path:
        return self.folder / "slide.h5"

    @property
    def palette(self) -> Path:
        """Prototypes of the classes of the demo world."""
        return self.folder / "palette.safetensors"

    @property
    def data(self) -> Path:
        """The folder of slides that are drawn for it."""
        return Path("data") / self.area

    @property
    def data_config(self) -> str:
        """The config that prepares them."""
        return f"configs/{self.area}/data.yaml"

    def weights(self, system: str) -> Path:
        own = "student" if self.teacher and system == "zoomldm" else system
        return self.folder / own / "weights.safetensors"

    @property
    def whole(self) -> bool:
        """Whether everything is there that makes it a model."""
        needed = [self.slide, self.weights("zoomldm"), *(self.folder / name for name in NEEDED)]
        return all(path.is_file() for path in needed)


DEMO = BundledModel("demo", "histology", "demo", seed=100, place=(12, 16))
MODELS = {
    model.name: model
    for model in (
        DEMO,
        BundledModel("satellite", "satellite", "demo/satellite", seed=132, place=(15, 13)),
        replace(DEMO, name="demo-fast", teacher="demo"),
    )
}
BUNDLED = {name: model for name, model in MODELS.items() if model.whole}
"""those that can be used: a model whose folder is incomplete is not offered"""


def model_of_kind(kind: str, student: bool = False) -> BundledModel:
    """The model of a ladder's kind, whole or not, or its student. UserError where there is none."""
    for model in MODELS.values():
        if model.kind == kind and student == bool(model.teacher):
            return model
    kinds = " or ".join(model.kind for model in MODELS.values() if student == bool(model.teacher))
    raise UserError(f"ladder.kind: {kind} found, but no bundled model is of it; expected {kinds}")
