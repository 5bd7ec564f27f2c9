"""What a preparation run is asked for: the keys of configs/demo/data.yaml, checked."""

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
"""whose values are paths: on a command line they stand as they are typed"""


@dataclass(frozen=True)
class Demo:
    """Demo slides to draw first: seeds seed, seed + 1, ..."""

    __pydantic_config__ = STRICT
    kind: Literal["histology", "follicles", "satellite"]
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
    """The tile encoder, and a local file when its weights are not to be fetched.

    `embeddings` is a folder of embeddings that TRIDENT or CLAM computed with it; then nothing is encoded here.
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
    """which files of the folder are slides"""
    generate: Demo | None = None
    """draw demo slides into the folder when it is absent"""
    coordinates: Text | None = None
    """folder of TRIDENT's or CLAM's coordinates that say where tissue is"""
    tile_px: Annotated[int, Field(ge=TILE_MULTIPLE, le=4096, multiple_of=TILE_MULTIPLE)] = 256
    tissue_share: Share | Mapping[str, Share] | tuple[tuple[str, Share], ...] = TISSUE_SHARE
    """least share of tissue of a region that is kept, of all scales or by name; a scale without one takes 0.1"""
    partial: Literal["pad", "skip"] = "pad"
    """regions that reach beyond the slide: pad them with background, or skip those valid for less than valid_share"""
    valid_share: Share = 0.5
    """share of a region that must lie on the slide when partial is skip"""
    regions_per_scale: Count | None = None
    """most regions of a scale kept from one slide"""
    images: Literal["jpeg", "png"] | None = None
    """jpeg or png: keep the pixels too"""
    mpp: Positive | None = None
    """um (m) per pixel of slides that do not say theirs"""
    table: Text | None = None
    """CSV with one row per slide (data_prep/slides/metadata.py); its mpp wins over the slide's own"""
    unreadable_share: Share = 0.01
    """a slide fails when more of its wanted base tiles cannot be read"""
    seed: Seed = 0
    batch_size: Annotated[int, Field(ge=1, le=10**6)] = 64
    """tiles that are gathered before the networks run; the result does not depend on it"""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """processes that read slides, of each device; 0: all in one process. The result does not depend on it"""
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = "auto"
    """cpu, cuda ...: what runs the networks"""
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = 1
    """GPUs of a node, or "auto": all; on a CPU, processes"""
    nodes: Annotated[int, Field(ge=1, le=65536)] = 1
    shard: Text | None = None
    """"i/n": every n-th slide from the i-th on, i from 0, where n jobs share a cohort"""

    def __post_init__(self) -> None:
        if self.encoder.embeddings and (self.encoder.weights or self.coordinates):
            other = "encoder.weights" if self.encoder.weights else "coordinates"
            raise UserError(f"{other}: found beside encoder.embeddings, which needs none; set one to null")
        if isinstance(self.tissue_share, Mapping):  # every key can be hashed
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
    """A name or pattern as it was typed, which YAML would take for something else (`*` is an alias, `#` a comment)."""
    key, equals, value = override.partition("=")
    if key not in TEXT_KEYS or value in ("", "null", "~") or value[0] in "\"'":
        return override
    return f"{key}{equals}{json.dumps(value, ensure_ascii=False)}"
