"""What a preparation run is asked for: the keys of configs/demo/data.yaml, checked."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ldm.config import check_arguments, load_config
from ldm.errors import UserError
from ldm.scales import Ladder, ladder

IMAGE_FORMATS = ("jpeg", "png")
TILE_MULTIPLE = 16
TISSUE_SHARE = 0.1
PARTIAL = ("pad", "skip")


@dataclass(frozen=True)
class Demo:
    """Demo slides to draw first: seeds seed, seed + 1, ..."""

    kind: str
    count: int
    seed: int
    size_px: int


@dataclass(frozen=True)
class Rungs:
    """The zoom ladder: its kind and how many of its finest scales (None: all)."""

    kind: str
    scales: int | None = None


@dataclass(frozen=True)
class Encoder:
    """The tile encoder, and a local file when its weights are not to be fetched.

    `embeddings` is a folder of embeddings that TRIDENT or CLAM computed with it; then nothing is encoded here.
    """

    name: str
    weights: str | None = None
    embeddings: str | None = None


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    slides: str
    """folder of slides"""
    out: str
    """folder of the prepared cohort"""
    ladder: Rungs
    encoder: Encoder
    autoencoder: str | None
    """demo, a run folder or a weights file; None: no latents"""
    pattern: str = "**/*"
    """which files of the folder are slides"""
    generate: Demo | None = None
    """draw demo slides into the folder when it is absent"""
    coordinates: str | None = None
    """folder of TRIDENT's or CLAM's coordinates that say where tissue is"""
    tile_px: int = 256
    tissue_share: float | Mapping[str, float] | tuple[tuple[str, float], ...] = TISSUE_SHARE
    """least share of tissue of a region that is kept, of all scales or by name; a scale without one takes 0.1"""
    partial: str = "pad"
    """regions that reach beyond the slide: pad them with background, or skip those valid for less than valid_share"""
    valid_share: float = 0.5
    """share of a region that must lie on the slide when partial is skip"""
    regions_per_scale: int | None = None
    """most regions of a scale kept from one slide"""
    images: str | None = None
    """jpeg or png: keep the pixels too"""
    mpp: float | None = None
    """um (m) per pixel of slides that do not say theirs"""
    table: str | None = None
    """CSV with a row a slide (data_prep/metadata.py); its mpp wins over the slide's own"""
    unreadable_share: float = 0.01
    """a slide fails when more of its wanted base tiles cannot be read"""
    seed: int = 0
    batch_size: int = 64
    """tiles that are gathered before the networks run; the result does not depend on it"""
    workers: int = 0
    """processes that read slides, of each device; 0: all in one process. The result does not depend on it"""
    accelerator: str = "auto"
    """cpu, cuda ...: what runs the networks"""
    devices: int | str = 1
    """GPUs of a node, or "auto": all; on a CPU, processes"""
    nodes: int = 1
    shard: str | None = None
    """"i/n": every n-th slide from the i-th on, i from 0, where n jobs share a cohort"""

    def __post_init__(self) -> None:
        if self.tile_px < TILE_MULTIPLE or self.tile_px % TILE_MULTIPLE:
            raise UserError(f"tile_px: {self.tile_px} found, expected a multiple of {TILE_MULTIPLE}, for example 256")
        if self.images not in (None, *IMAGE_FORMATS):
            raise UserError(f"images: {self.images} found, expected null or one of {', '.join(IMAGE_FORMATS)}")
        if self.encoder.embeddings and (self.encoder.weights or self.coordinates):
            other = "encoder.weights" if self.encoder.weights else "coordinates"
            raise UserError(f"{other}: found beside encoder.embeddings, which needs none; set one to null")
        if self.partial not in PARTIAL:
            raise UserError(f"partial: {self.partial} found, expected one of {', '.join(PARTIAL)}")
        if isinstance(self.tissue_share, Mapping):  # every key can be hashed
            object.__setattr__(self, "tissue_share", tuple(self.tissue_share.items()))
        for key, shares in (
            ("tissue_share", self.tissue_shares),
            ("valid_share", (self.valid_share,)),
            ("unreadable_share", (self.unreadable_share,)),
        ):
            for share in shares:
                if not isinstance(share, int | float) or not 0 <= share <= 1:
                    raise UserError(f"{key}: {share} found, expected a share between 0 and 1")
        self._check_numbers()

    def _check_numbers(self) -> None:
        for key, least in {"batch_size": 1, "regions_per_scale": 1, "nodes": 1, "workers": 0}.items():
            value = getattr(self, key)
            if value is not None and (not isinstance(value, int) or value < least):
                raise UserError(f"{key}: {value} found, expected a whole number of at least {least}")
        if self.devices != "auto" and (not isinstance(self.devices, int) or self.devices < 1):
            raise UserError(f"devices: {self.devices} found, expected a number of at least 1, or auto")
        if self.mpp is not None and not isinstance(self.mpp, int | float):
            raise UserError(f"mpp: {self.mpp} found, expected a number, for example 0.5")
        index, count = self.part
        if index >= count:
            raise UserError(f"shard: {self.shard} found, expected I/N with I from 0 to N - 1, for example 0/{count}")

    @property
    def tissue_shares(self) -> tuple[float, ...]:
        """Least share of tissue of each scale. UserError for a scale that the ladder lacks."""
        if isinstance(self.tissue_share, int | float):
            return (self.tissue_share,) * len(self.zooms)
        stated = {self.zooms[name].name: share for name, share in dict(self.tissue_share).items()}
        return tuple(stated.get(name, TISSUE_SHARE) for name in self.zooms.names)

    @property
    def part(self) -> tuple[int, int]:
        """(i, n) of `shard`. UserError when it is not i/n."""
        found = re.fullmatch(r"(\d+)/(\d+)", str(self.shard or "0/1"))
        if not found:
            raise UserError(f"shard: {self.shard} found, expected I/N, for example 0/8")
        return int(found[1]), int(found[2])

    @property
    def zooms(self) -> Ladder:
        return ladder(self.ladder.kind, self.ladder.scales)


def load_prepare_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> PrepareConfig:
    """Read YAML `files` and key=value `overrides`. UserError for a key that is unknown, missing or out of range."""
    values: Any = OmegaConf.to_container(load_config(files, overrides))
    for key, part in (("ladder", Rungs), ("encoder", Encoder), ("generate", Demo)):
        if values.get(key) is not None:
            values[key] = _checked(part, values[key], key)
    return _checked(PrepareConfig, values, "config")


def _checked(part: Any, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{where}: {values!r} found, expected a mapping of keys to values")
    check_arguments(part, values, where)
    return part(**values)
