"""Ways to enlarge images (paper, Table 3): bicubic, ours, a ControlNet, a super-resolution LDM.

A method turns a LowRes into an image and declares what the image depends on: add one to METHODS, or rows of your own
with `--generated NAME=FOLDER`. `superres_scores` compares them.

Shapes: H, W pixels of the truth, f the factor, h = H / f, w = W / f, d channels, R, C rows and columns of base tiles.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from torch import Tensor

from ldm.controlnet_superres import ControlModel
from ldm.errors import UserError
from ldm.evaluation.experiments.context import Method
from ldm.evaluation.experiments.names import CONTROLLED, SUPERRES, SUPERRES_LDM
from ldm.hub import open_source
from ldm.images.contact_sheet import Pixels
from ldm.multiscale.conditions import Conditions, TokenMap, Unconditional
from ldm.multiscale.presets import CONSISTENT, Settings
from ldm.multiscale.super_resolution import (
    INVERSION_STEPS,
    SuperResolution,
    bicubic,
    inferred,
    magnification,
)
from ldm.pipeline import ZoomLDM
from ldm.superres_ldm import SuperResLDM
from ldm.support.bundled_models import BUNDLED
from ldm.trained_superres import SETTINGS, TrainedSuperRes

Trained = TypeVar("Trained", bound=TrainedSuperRes)


class LowRes(NamedTuple):
    """An image y (h, w, 3) at the coarsest of `scales`, to be enlarged to the finest."""

    number: int
    y: Pixels
    tokens: Callable[[], Tensor]
    """(d, R, C): the embeddings of the base tiles of the truth"""
    scales: Sequence[str]
    batch: int = 16
    """tiles at a time"""


class Enlarge(Method, Protocol):
    def __call__(self, model: ZoomLDM, low: LowRes, /) -> Pixels:
        """(h, w, 3) -> (H, W, 3); the noise depends on the image's number alone."""


@dataclass(frozen=True)
class Bicubic:
    """Bicubic enlargement."""

    weights = settings = MappingProxyType[str, Any]({})
    embeds = False

    def __call__(self, model: ZoomLDM, low: LowRes) -> Pixels:
        return bicubic(low.y, magnification(model, low.scales))


@dataclass(frozen=True)
class Constrained:
    """Ours: without embeddings ("none"), with inferred ones ("inferred"), or with those of the truth ("given")."""

    condition: str
    sampling: Settings = CONSISTENT
    inversion_steps: int = INVERSION_STEPS
    """where embeddings are inferred"""
    weights = MappingProxyType[str, str]({})

    @property
    def settings(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def embeds(self) -> bool:
        return self.condition == "given"

    def conditions(self, model: ZoomLDM, low: LowRes) -> Conditions:
        if self.condition == "none":
            return Unconditional(model)
        if self.condition == "given":
            return TokenMap(model, low.tokens())
        steps, seed = self.inversion_steps, low.number
        return inferred(model, low.y, low.scales, steps=steps, seed=seed)

    def __call__(self, model: ZoomLDM, low: LowRes) -> Pixels:
        sampling = SuperResolution(
            model,
            low.y,
            low.scales,
            self.conditions(model, low),
            settings=self.sampling,
            seed=low.number,
            batch_size=low.batch,
        )
        for _ in sampling.run():
            pass
        return np.concatenate(list(sampling.bands()))


@dataclass(frozen=True)
class LDMMethod:
    """A super-resolution LDM (paper, Table 3, row CompVis)."""

    ldm: SuperResLDM
    sampling: Settings = SETTINGS
    embeds = False

    @property
    def weights(self) -> dict[str, str]:
        return self.ldm.weights

    @property
    def settings(self) -> dict[str, Any]:
        return {"scale": self.ldm.scale, "sampling": asdict(self.sampling)}

    def __call__(self, model: ZoomLDM, low: LowRes) -> Pixels:
        own = Unconditional(self.ldm.model)
        return self.ldm.enlarge(low.y, own, low.number, settings=self.sampling, batch_size=low.batch)


@dataclass(frozen=True)
class SteeredMethod:
    """A ControlNet (paper, Table 3), without embeddings or with those of the truth."""

    control: ControlModel
    embeds: bool
    sampling: Settings = SETTINGS

    @property
    def weights(self) -> dict[str, str]:
        return self.control.weights

    @property
    def settings(self) -> dict[str, Any]:
        return {"embeds": self.embeds, "scale": self.control.scale, "sampling": asdict(self.sampling)}

    def __call__(self, model: ZoomLDM, low: LowRes) -> Pixels:
        conditions = TokenMap(model, low.tokens()) if self.embeds else Unconditional(model)
        return self.control.enlarge(low.y, conditions, low.number, settings=self.sampling, batch_size=low.batch)


METHODS: dict[str, Enlarge] = {
    "bicubic": Bicubic(),
    "none": Constrained("none"),
    "inferred": Constrained("inferred"),
    "given": Constrained("given"),
}
"""bicubic; ours without embeddings, with inferred ones, and with those of the truth"""


def bundled_control(name: str) -> str | None:
    """The id of the model that a bundled ControlNet steers; None where the model has none."""
    there = BUNDLED[name].weights("control").is_file()
    return open_source(name, "control").config.steers if there else None


def control_for(source: str | None, model: ZoomLDM, scales: Sequence[str]) -> ControlModel | None:
    """The ControlNet of a run; of None, the bundled one if it is for these weights and scales.

    UserError for one of other weights, or between other scales.
    """
    found = source or next((name for name in BUNDLED if bundled_control(name) == model.id), None)
    if found is None:
        return None
    control = ControlModel.load(found, model)
    if source is None and set(control.scales) != set(scales):
        return None
    return of_scales(control, f"--control: {found}", scales)


def ldm_for(source: str | None, model: ZoomLDM, scales: Sequence[str]) -> SuperResLDM | None:
    """The super-resolution LDM of a run; None of None. UserError for one of other latents, or between other scales."""
    if source is None:
        return None
    return of_scales(SuperResLDM.load(source, model), f"--superres-ldm: {source}", scales)


def of_scales(trained: Trained, what: str, scales: Sequence[str]) -> Trained:
    """`trained`, called `what`. UserError unless it enlarges between `scales`."""
    if set(trained.scales) != set(scales):
        raise UserError(f"{what} enlarges between {','.join(trained.scales)}, not {','.join(scales)}")
    return trained


def methods(
    names: Sequence[str] | None, control: ControlModel | None, ldm: SuperResLDM | None = None
) -> dict[str, Enlarge]:
    """The methods named, or all available ones. UserError for a trained one whose weights are not there."""
    known = dict(METHODS)
    if control:
        known |= {name: SteeredMethod(control, given) for name, given in CONTROLLED.items()}
    if ldm:
        known[SUPERRES_LDM] = LDMMethod(ldm)
    for name in names or ():
        if name == SUPERRES_LDM and name not in known:
            raise UserError(f"--methods: {name} needs a super-resolution LDM; give --superres-ldm RUN")
        if name not in known:
            raise UserError(f"--methods: {name} needs a ControlNet and there is none; give --control RUN")
    return {name: known[name] for name in (SUPERRES if names is None else names) if name in known}
