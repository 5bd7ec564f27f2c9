"""Settings of prepared files: files with the same settings are kept, and a cohort has one set of settings.

Settings that the slides of a cohort share (how it is prepared) and those of one slide (its file, um/px, imported
patches) are separate: another tissue threshold needs another cohort, but a slide that was replaced is prepared again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.imported_patches import EMBEDDINGS, file_of, tissue_file
from data_prep.preparation_config import PrepareConfig
from data_prep.slides.find import Task
from data_prep.workers.embedding import NetworksIdentity
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.rasters import world_suffixes

BLOCK, BLOCKS = 2**20, 64
"""block size and number of blocks of a fingerprint: files of up to 64 MiB are read completely"""
READING = {"satellite": 2}
"""version by kind, increased when files are read to other pixels than before; default 1"""


def fingerprint(path: Path, parts: Sequence[Path] = ()) -> list[str | int]:
    """Name and size of a file, and a digest of it, its `parts` and its side files.

    Of a large file, evenly spread blocks are read: a replaced file is detected, a single changed pixel may not be.
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
    """Side files whose content matters: a MIRAX slide's folder, GDAL's files beside a raster, a world file."""
    world = {path.with_suffix(suffix) for suffix in (*world_suffixes(path), ".prj")}
    gdal = {path.with_name(f"{path.name}{suffix}") for suffix in (".aux.xml", ".ovr", ".msk")}
    inside = path.with_suffix("").iterdir() if path.suffix.lower() == ".mrxs" and path.with_suffix("").is_dir() else ()
    return sorted(part for part in {*world, *gdal, *inside} if os.path.isfile(part))  # the name may be too long


def model_attrs(config: PrepareConfig, identity: NetworksIdentity) -> dict[str, Any]:
    """Attributes of the file, part of its settings, that a model must match."""
    return {
        "kind": config.zooms.kind,
        "scales": config.zooms.names,
        "tile_px": config.tile_px,
        "encoder": identity.encoder,
        "autoencoder": identity.autoencoder or "",
        "latents_id": identity.latents_id or "",
    }


def cohort_settings(config: PrepareConfig, identity: NetworksIdentity) -> dict[str, Any]:
    """Settings that all files of a cohort share, by the config's names, as plain JSON values."""
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
        own["coordinates"] = fingerprint(tissue_file(task.path, config.coordinates))
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
