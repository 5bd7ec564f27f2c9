"""What a prepared file depends on: one with the same settings need not be made again, and a cohort is of one setting.

What the slides of a cohort share (how it is prepared) and what is a slide's own (its file, its um/px, what others found
on it) stand apart: another cut-off for tissue makes another cohort, a slide that was replaced is prepared again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.imported import COORDINATES, EMBEDDINGS, file_of
from data_prep.preparation_config import PrepareConfig
from data_prep.slides.find import Task
from data_prep.workers.embedding import NetworksIdentity
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.rasters import world_suffixes

BLOCK, BLOCKS = 2**20, 64
"""bytes of a file that are read at a time, and how many times: of 64 MiB, all"""
READING = {"satellite": 2}
"""raised when files of a kind are read to other pixels than before; 1 where none is named"""


def fingerprint(path: Path, parts: Sequence[Path] = ()) -> list[str | int]:
    """Name and size of a file, and a digest of it, its `parts` and what stands beside it.

    Of a file of gigabytes it reads evenly spread blocks: that it was replaced is seen, one retouched pixel is not.
    """
    digest = hashlib.sha256()
    for part in [path, *sorted({*filter(Path.is_file, parts), *beside(path)})]:
        size = part.stat().st_size
        digest.update(f"{part.name} {size}\n".encode(errors="surrogateescape"))
        with part.open("rb") as file:
            for k in range(BLOCKS):
                file.seek(BLOCK * k if size <= BLOCK * BLOCKS else (size - BLOCK) * k // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return [path.name, path.stat().st_size, digest.hexdigest()[:16]]


def beside(path: Path) -> list[Path]:
    """Files whose content counts too: a MIRAX slide's folder, what GDAL writes beside a raster, a world file."""
    world = {path.with_suffix(suffix) for suffix in (*world_suffixes(path), ".prj")}
    gdal = {path.with_name(f"{path.name}{suffix}") for suffix in (".aux.xml", ".ovr", ".msk")}
    inside = path.with_suffix("").iterdir() if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir() else ()
    return sorted(part for part in {*world, *gdal, *inside} if os.path.isfile(part))  # a name may be too long to ask


def model_attrs(config: PrepareConfig, identity: NetworksIdentity) -> dict[str, Any]:
    """What a model must share with a prepared slide: attributes of the file, and part of its settings."""
    return {
        "kind": config.zooms.kind,
        "scales": config.zooms.names,
        "tile_px": config.tile_px,
        "encoder": identity.encoder,
        "autoencoder": identity.autoencoder or "",
        "latents_id": identity.latents_id or "",
    }


def cohort_settings(config: PrepareConfig, identity: NetworksIdentity) -> dict[str, Any]:
    """What all files of a cohort depend on, by the names of the config, as JSON gives it back."""
    named = dict(zip(config.zooms.names, config.tissue_shares, strict=True))
    settings = {
        "version": READING.get(config.zooms.kind, 1),
        **model_attrs(config, identity),
        "tissue": "embeddings" if config.encoder.embeddings else "coordinates" if config.coordinates else "thumbnail",
        "tissue_share": named,
        "partial": config.partial,
        "valid_share": config.valid_share if config.partial == "skip" else None,
        "regions_per_scale": config.regions_per_scale,
        "images": config.images,
        "unreadable_share": config.unreadable_share,
        "seed": config.seed,
    }
    return json.loads(json.dumps(settings))


def settings(task: Task, config: PrepareConfig, identity: NetworksIdentity) -> str:
    """Everything that the prepared file of a slide depends on."""
    own: dict[str, Any] = {"source": fingerprint(task.path, task.parts), "mpp": [config.mpp, task.mpp]}
    if config.coordinates:
        own["coordinates"] = fingerprint(file_of(task.path, config.coordinates, COORDINATES))
    if config.encoder.embeddings:
        own["embeddings"] = fingerprint(file_of(task.path, config.encoder.embeddings, EMBEDDINGS))
    return json.dumps({"cohort": cohort_settings(config, identity), "slide": own})


def has_settings(target: Path) -> bool:
    """Whether `target` is a file that records how it was prepared."""
    try:
        return target.exists() and bool(SlideFile(target).settings)
    except UserError:
        return False


def is_prepared(target: Path, wanted: str) -> bool:
    """Whether `target` is a whole file made with the settings `wanted`."""
    if not target.exists():
        return False
    try:
        return SlideFile(target).attrs.get("settings") == wanted
    except UserError:
        return False
