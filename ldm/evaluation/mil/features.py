"""Denoiser activations as tile features.

A region's latent, noised to t, is passed through the U-Net with the region's own context; the activations of one output
block are averaged over positions (paper, Table 4: output block 3 at t = 100).

The paper leaves three choices open. Blocks are counted from 0 here, so block 3 of the published network is the first
with 576 channels (16x16 for latents of 64x64). The latent is noised, as in training; the noise is a function of (seed,
slide, scale, row, column), so a tile's features depend on the tile alone. Pooling is the mean.

Shapes: n regions, d channels, h, w latents a side.
"""

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from torch import Tensor
from tqdm import tqdm

from ldm.data.bags import Bag, fuse, place_l0, read_bag, write_bag
from ldm.data.h5 import SlideFile
from ldm.diffusion.samplers import seeded_noise
from ldm.diffusion.schedule import add_noise, at
from ldm.errors import UserError
from ldm.model_slides import latents
from ldm.pipeline import ZoomLDM
from ldm.support.cache import Identity, content

SOURCES = ("denoiser", "encoder")


@dataclass(frozen=True)
class Probe:
    """Which activations of the denoiser are used."""

    block: int = 3
    t: int = 100
    clean: bool = False
    """use the latent without noise"""
    seed: int = 0

    def check(self, model: ZoomLDM) -> None:
        """UserError for a block or t that the model does not have."""
        for name, value, count in (
            ("block", self.block, len(model.unet.output_blocks)),
            ("t", self.t, len(model.alpha_bar)),
        ):
            if not 0 <= value < count:
                raise UserError(f"{name}: {value} asked; the model has 0 to {count - 1}")


@torch.no_grad()
def denoiser_features(
    model: ZoomLDM, slide: SlideFile, scale: str, rows: Sequence[int], probe: Probe | None = None
) -> Tensor:
    """Features (n, d) of regions `rows` of a slide, on the CPU.

    UserError for a block or t that the model does not have, or a slide without latents of the model's autoencoder.
    """
    probe = probe or Probe()
    probe.check(model)
    z_0 = latents(slide, scale, rows, model)  # (n, 3, h, w)
    t = torch.full((len(z_0),), probe.t)
    if not probe.clean:
        tile = (probe.seed, zlib.crc32(slide.attrs["slide_id"].encode()), slide.ladder[scale].index)
        places = slide.ij(scale)[list(rows)].tolist()
        eps = torch.stack([seeded_noise(z_0.shape[1:], *tile, *place) for place in places])
        z_0 = add_noise(z_0, eps, at(model.alpha_bar, t, z_0))
    context = model.context([slide.embedding(scale, row) for row in rows], scale)
    maps = model.activations(z_0.to(model.device), t.to(model.device), context, probe.block)
    return reduce(maps.float(), "n d h w -> n d", "mean").cpu()


def encoder_features(slide: SlideFile, scale: str, rows: Sequence[int]) -> Tensor:
    """Mean (n, d) of the tile encoder's embeddings, as stored, under regions `rows` of a slide."""
    zoom = slide.ladder[scale]
    corners = slide.ij(scale)[list(rows)] * zoom.grid
    grids = [slide.tokens(zoom.pyramid_level, i, j, zoom.grid, zoom.grid) for i, j in corners.tolist()]
    return torch.stack([reduce(grid, "d gh gw -> d", "mean") for grid in grids])


@dataclass(frozen=True)
class FeatureExtractor:
    """Makes the bags of slides: of each scale in out/<source>-<scale>/, fused in out/<source>-<scale>+<scale>.../.

    Complete bags of the same settings are kept, so an interrupted command continues when it is run again.
    """

    model: ZoomLDM
    scales: Sequence[str]
    """finest first"""
    out: Path
    source: str = "denoiser"
    """or "encoder": the embeddings themselves, for comparison"""
    probe: Probe = Probe()
    batch_size: int = 32
    quiet: bool = False
    """show no progress bar of a slide's regions"""

    def __post_init__(self) -> None:
        self.probe.check(self.model)

    @property
    def folder(self) -> Path:
        """The folder of the fused bags."""
        return self._folder(self.scales)

    def _folder(self, scales: Sequence[str]) -> Path:
        return self.out / f"{self.source}-{'+'.join(scales)}"

    def __call__(self, slide: SlideFile) -> bool:
        """Make the missing bags of one slide; returns whether there were any.

        UserError when the slide has no region of a scale, lacks too many coarser regions, or as `denoiser_features`.
        """
        name = f"{slide.attrs['slide_id']}.h5"
        paths = [self._folder([scale]) / name for scale in self.scales]
        made = False
        for path, scale in zip(paths, self.scales, strict=True):
            wanted = self._identity(slide, [scale])
            if not is_made(path, wanted):
                write_bag(path, self._bag(slide, scale, wanted))
                made = True
        fused, wanted = self.folder / name, self._identity(slide, self.scales)
        if len(paths) > 1 and not is_made(fused, wanted):
            write_bag(fused, replace(fuse([read_bag(path) for path in paths]), identity=wanted))
            made = True
        return made

    def _identity(self, slide: SlideFile, scales: Sequence[str]) -> Identity:
        """Everything that the bag of some scales depends on."""
        weights = {"encoder": slide.attrs["encoder"]}
        settings: dict[str, Any] = {"source": self.source, "scales": list(scales), "preparation": slide.settings}
        if self.source == "denoiser":
            weights |= self.model.weights
            settings |= {"precision": self.model.precision, **asdict(self.probe)}
        inputs: dict[str, Any] = {"slide": content(slide.path)}
        if (read_mpp := slide.attrs.get("read_mpp", slide.attrs["base_mpp"])) != slide.attrs["base_mpp"]:
            inputs["read_mpp"] = read_mpp  # earlier versions wrote other coordinates of imported patches
        return Identity("features", weights, inputs, settings)

    def _bag(self, slide: SlideFile, scale: str, identity: Identity) -> Bag:
        """The features of every prepared region of `scale`."""
        count = slide.count(scale) if scale in slide.ladder.names else 0
        if count == 0:
            raise UserError(f"{slide.path}: has no region at {scale}; choose other scales or prepare it with them")
        starts = range(0, count, self.batch_size)
        bar = tqdm(starts, desc=f"{slide.path.stem} {scale}", unit="batch", leave=False, disable=self.quiet)
        rows = (range(start, min(start + self.batch_size, count)) for start in bar)
        features = torch.cat([self._features(slide, scale, part) for part in rows]).numpy()
        ij = slide.ij(scale)
        coords, side_l0 = place_l0(slide, scale, ij)
        eligible = slide.eligible(scale)
        every = -1 if eligible is None else eligible
        return Bag(str(slide.attrs["slide_id"]), (scale,), features, coords, ij, side_l0, identity, every)

    def _features(self, slide: SlideFile, scale: str, rows: Sequence[int]) -> Tensor:
        if self.source == "encoder":
            return encoder_features(slide, scale, rows)
        return denoiser_features(self.model, slide, scale, rows, self.probe)


def is_made(path: Path, wanted: Identity) -> bool:
    """Whether `path` is a complete bag of this identity."""
    if not path.exists():
        return False
    try:
        return read_bag(path).identity == wanted
    except UserError:
        return False
