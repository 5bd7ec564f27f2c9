"""Schema of a preparation config (configs/data_*.yaml, configs/demo/data.yaml)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from omegaconf import OmegaConf
from pydantic import Field

from ldm.config.objects import load_config
from ldm.config.schema import STRICT, Count, Positive, Seed, Share, Text, check
from ldm.errors import UserError
from ldm.scales import Ladder, ladder

TILE_MULTIPLE = 16
TISSUE_SHARE = 0.1
TEXT_KEYS = {"slides", "out", "pattern", "coordinates", "table", "encoder.weights", "encoder.embeddings", "autoencoder"}
"""keys whose values are paths: in overrides they are taken literally, not as YAML"""


@dataclass(frozen=True)
class Demo:
    """Demo slides to draw first, with seeds seed, seed + 1, ..."""

    __pydantic_config__ = STRICT
    kind: Literal["histology", "neighbours", "satellite"]
    count: Annotated[int, Field(ge=1, le=10**6)]
    seed: Seed
    size_px: Annotated[int, Field(ge=1024, le=2**20, multiple_of=256)]


@dataclass(frozen=True)
class LadderConfig:
    """The zoom ladder: its kind and how many of its finest scales (None: all)."""

    __pydantic_config__ = STRICT
    kind: Literal["histology", "satellite"]
    scales: Annotated[int, Field(ge=1, le=8)] | None = None


@dataclass(frozen=True)
class EncoderConfig:
    """The tile encoder, and optionally a local file of its weights.

    `embeddings`: a folder of embeddings that TRIDENT or CLAM computed with it, which are used instead.
    """

    __pydantic_config__ = STRICT
    name: Text
    weights: Text | None = None
    embeddings: Text | None = None


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    __pydantic_config__ = STRICT
    slides: Text
    """folder of slides"""
    out: Text
    """folder of the prepared cohort"""
    ladder: LadderConfig
    encoder: EncoderConfig
    autoencoder: Text | None
    """demo, a run folder or a weights file; None: no latents"""
    pattern: Text = "**/*"
    """glob pattern of slides in the folder"""
    generate: Demo | None = None
    """demo slides to draw into the folder when it is absent"""
    coordinates: Text | None = None
    """folder of TRIDENT's or CLAM's coordinates, or of annotations (SLIDE.geojson), used as tissue"""
    tile_px: Annotated[int, Field(ge=TILE_MULTIPLE, le=4096, multiple_of=TILE_MULTIPLE)] = 256
    tissue_share: Share | Mapping[str, Share] | tuple[tuple[str, Share], ...] = TISSUE_SHARE
    """least share of tissue of a kept region, for all scales or by scale (others: 0.1)"""
    partial: Literal["pad", "skip"] = "pad"
    """regions that reach beyond the slide: pad with background, or skip if less than valid_share lies on the slide"""
    valid_share: Share = 0.5
    """share of a region that must lie on the slide when partial is skip"""
    regions_per_scale: Count | None = None
    """most regions of a scale kept from one slide"""
    images: Literal["jpeg", "png"] | None = None
    """jpeg or png: keep the pixels too"""
    mpp: Positive | None = None
    """um (m) per pixel of slides that do not state it"""
    table: Text | None = None
    """CSV with one row per slide (data_prep/slides/metadata.py); its mpp overrides the slide's"""
    unreadable_share: Share = 0.01
    """a slide fails when more than this share of its wanted base tiles cannot be read"""
    seed: Seed = 0
    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 64
    """batch size of the networks in tiles; results do not depend on it"""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """reader processes per device; 0: one process for everything. Results do not depend on it"""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """device type of the networks: cpu, cuda, ..."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """of the networks; auto: bf16 on cards that have it, which changes embeddings and latents by about 1e-2 of their
    size, else fp32"""
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 1
    """GPUs per node, or "auto": all; on a CPU, processes"""
    nodes: Annotated[int, Field(ge=1, le=65536)] = 1
    shard: Text | None = None
    """"i/n": every n-th slide from number i (from 0) on, for n jobs that share a cohort"""

    def __post_init__(self) -> None:
        if self.encoder.embeddings and (self.encoder.weights or self.coordinates):
            other = "encoder.weights" if self.encoder.weights else "coordinates"
            raise UserError(f"{other}: found beside encoder.embeddings, which needs none; set one to null")
        if isinstance(self.tissue_share, Mapping):  # scale names
            object.__setattr__(self, "tissue_share", tuple(self.tissue_share.items()))
        for share in self.tissue_shares:
            if not 0 <= share <= 1:
                raise UserError(f"tissue_share: {share} found, expected a share between 0 and 1")
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
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", self.shard or "0/1")
        if not found:
            raise UserError(f"shard: {self.shard} found, expected I/N, for example 0/8")
        return int(found[1]), int(found[2])

    @property
    def zooms(self) -> Ladder:
        return ladder(self.ladder.kind, self.ladder.scales)


def load_prepare_config(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> PrepareConfig:
    """Read YAML `files` and key=value `overrides`. UserError for a key that is unknown, missing or out of range."""
    values = load_config(files, [_as_text(item) for item in overrides], "data")
    return check(PrepareConfig, OmegaConf.to_container(values), "config")


def _as_text(override: str) -> str:
    """A name or pattern as typed, which YAML would misread (`*` is an alias, `#` a comment)."""
    key, equals, value = override.partition("=")
    if key not in TEXT_KEYS or value in ("null", "~") or value[:1] in ('"', "'"):
        return override
    return f"{key}{equals}{json.dumps(value, ensure_ascii=False)}"
