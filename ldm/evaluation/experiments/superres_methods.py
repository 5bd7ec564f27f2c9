"""Super-resolution against the truth (paper, Table 3): PSNR, SSIM, LPIPS, similarity of embeddings, residual A x - y.

A method turns a LowRes into an image and declares what the image depends on: add one to METHODS, or rows of your own
with `--generated NAME=FOLDER`.

Shapes: H, W pixels of the truth, f the factor, h = H / f, w = W / f, d channels, R, C rows and columns of base tiles.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from einops import rearrange
from torch import Tensor

from ldm.controlnet_superres import ControlModel
from ldm.errors import UserError
from ldm.evaluation.experiments.context import SHOWN, Embedder, EvalContext, Method, Report, Sheet
from ldm.evaluation.experiments.given_images import enlarged_of
from ldm.evaluation.experiments.image_sets import SampleCache
from ldm.evaluation.experiments.names import CONTROLLED, SUPERRES, SUPERRES_LDM
from ldm.evaluation.metrics.extractors import Extractor
from ldm.evaluation.metrics.fidelity import (
    LPIPS_REMEDY,
    Features,
    Lpips,
    alexnet_file,
    encoder_distance,
    encoder_similarity,
    psnr,
    ssim,
)
from ldm.evaluation.metrics.seams import gradient_energy
from ldm.evaluation.tables import markdown, spread
from ldm.hub import open_source
from ldm.images.contact_sheet import Pixels, save_png
from ldm.images.pictures import read_picture
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.conditions import Conditions, TokenMap, Unconditional, image_tokens
from ldm.multiscale.constraint import Residual, Shrink
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


DIGITS = {"PSNR": 2, "gradient energy": 2, "encoder distance": 4, "LR residual": 4, "CPU s": 1}
"""digits of a column, where not 3"""


def scores(
    image: Pixels,
    truth: Pixels,
    y: Pixels,
    spaces: Sequence[Extractor],
    patch_px: int,
    features: Features | None,
    lpips: Lpips | None,
) -> dict[str, float]:
    """Scores of `image` (H, W, 3) against the truth; measures whose weights are missing are left out.

    Each of `spaces` gives the cosine of whole images, at its own input size (224 px: as the paper), and the mean cosine
    of patches of `patch_px`. `features` replace LPIPS' where its weights are missing.
    """
    pair = image[None], truth[None]
    residual = Residual(from_uint8(y[None])[0], len(image) // len(y))
    residual.add(from_uint8(image[None])[0])
    found = {"PSNR": float(psnr(*pair)[0]), "SSIM": float(ssim(*pair)[0])}
    if lpips is not None:
        found[f"LPIPS, {lpips.id}"] = float(lpips(*pair)[0])
    if features is not None:
        found["encoder distance"] = float(encoder_distance(features, *pair)[0])
    for space in spaces:
        patches = [whole_patches(picture, patch_px) for picture in (image, truth)]
        found[f"{space.id}, whole"] = float(encoder_similarity(space, *pair)[0])
        found[f"{space.id}, {patch_px} px"] = float(encoder_similarity(space, *patches).mean())
    found["gradient energy"] = gradient_energy(image) / gradient_energy(truth)
    found["LR residual"] = residual.rms
    return found


def whole_patches(image: Pixels, side: int) -> Pixels:
    """(H, W, 3) -> its whole patches (n, side, side, 3)."""
    height, width = (length - length % side for length in image.shape[:2])
    return rearrange(image[:height, :width], "(r h) (c w) d -> (r c) h w d", h=side, w=side)


def run(
    setup: EvalContext,
    truths: Sequence[Path],
    scales: Sequence[str],
    methods: Mapping[str, Enlarge],
    generated: Mapping[str, Path],
    embed: Embedder,
    features: Features | None = None,
    lpips: Lpips | None = None,
) -> Report:
    """Shrink every truth to the coarsest of `scales`, enlarge it by every method, and score it.

    The shrunk images are written beside the table, for the methods whose images are given in the folders `generated`,
    under the names of the truths. `embed` gives the embeddings of the truth's tiles; `features` and `lpips` are those
    of `scores`. UserError for an image that a folder lacks, or of another size.
    """
    tile_px, factor = setup.model.tile_px, magnification(setup.model, scales)
    sizes = {path.stem: read(path, factor).shape[:2] for path in truths} if generated else {}
    given = {name: enlarged_of(folder, sizes) for name, folder in generated.items()}
    if setup.processes.first:
        for path in truths:
            save_png(setup.out / "superres" / "inputs" / f"{path.stem}.png", shrunk(read(path, factor), factor))
    columns = [[read(path, factor) for path in truths[:SHOWN]]]
    records = []
    for name in [*methods, *given]:
        seconds = np.nan
        if name in given:
            images = given[name]
        else:
            made = generate(setup, name, methods[name], truths, scales, embed)
            images, seconds = made.loaders(len(truths)), made.seconds
        for path, image in zip(truths, images, strict=True):
            truth = read(path, factor)
            found = scores(image(), truth, shrunk(truth, factor), setup.spaces, tile_px, features, lpips)
            records.append({"method": name, "image": path.name, **found, "CPU s": seconds})
        columns.append([load() for load in images[:SHOWN]])
    before = [shrunk(truth, factor) for truth in columns[0]]
    rows = [list(row) for row in zip(before, *columns[1:], columns[0], strict=True)]
    sheet = Sheet(rows, [""] * len(rows), ["input", *methods, *given, "truth"])
    lacking = "" if lpips else f"\n\nNo LPIPS: {alexnet_file()} is missing; {LPIPS_REMEDY}\n"
    return Report(records, f"{len(truths)} images, mean ± standard deviation.\n\n{table(records)}{lacking}", sheet)


def cache_of(
    setup: EvalContext, name: str, method: Enlarge, truths: Sequence[Path], scales: Sequence[str], embed: Embedder
) -> SampleCache:
    """The cache of a method's images."""
    identity = setup.identity_of(method, truths, scales, embed if method.embeds else None)
    return SampleCache(setup.samples, f"superres {name}", identity)


def generate(
    setup: EvalContext, name: str, method: Enlarge, truths: Sequence[Path], scales: Sequence[str], embed: Embedder
) -> SampleCache:
    """The images of a method; missing ones are made."""
    kept = cache_of(setup, name, method, truths, scales, embed)
    factor = magnification(setup.model, scales)

    def make(numbers: range) -> Iterator[Pixels]:
        for i in numbers:
            truth = read(truths[i], factor)
            tokens = partial(image_tokens, truth, embed, setup.model.tile_px)
            yield method(setup.model, LowRes(setup.seed + i, shrunk(truth, factor), tokens, scales, setup.batch))

    kept.fill(len(truths), make, processes=setup.processes)
    return kept


def read(path: Path, factor: int) -> Pixels:
    """Read a truth (H, W, 3), cropped to a multiple of the factor."""
    image = read_picture(path).pixels
    height, width = (length - length % factor for length in image.shape[:2])
    return image[:height, :width]


def shrunk(truth: Pixels, factor: int) -> Pixels:
    """y, the f x f means of a truth."""
    return to_uint8(Shrink(factor)(from_uint8(truth[None])))[0]


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """Table of mean and standard deviation over images, with a row per method and a column per measure."""
    columns = [key for key in records[0] if key not in ("method", "image")]
    rows = []
    for method in dict.fromkeys(record["method"] for record in records):
        of_method = [record for record in records if record["method"] == method]
        values = {key: [record[key] for record in of_method] for key in columns}
        rows.append([method, *(spread(values[key], DIGITS.get(key, 3)) for key in columns)])
    return markdown(["", *columns], rows)
