"""What a prepared file depends on, as text: a file with the same text need not be made again."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from data_prep.config import PrepareConfig
from data_prep.embedding import Identity
from data_prep.find import Task
from data_prep.imported import COORDINATES, EMBEDDINGS, file_of
from ldm.data.h5 import SlideFile
from ldm.errors import UserError

FINGERPRINT_BYTES = 2**20
READING = {"satellite": 2}
"""raised when files of a kind are read to other pixels than before; 1 where none is named"""


def fingerprint(path: Path) -> list[str | int]:
    """Name, size, and a digest of both ends: of a slide of gigabytes, enough to see that it was replaced."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(FINGERPRINT_BYTES)
        file.seek(-min(FINGERPRINT_BYTES, size), io.SEEK_END)
        return [path.name, size, hashlib.sha256(start + file.read()).hexdigest()[:16]]


def settings(task: Task, config: PrepareConfig, identity: Identity) -> str:
    """Everything that the prepared file of a slide depends on."""
    depends: dict[str, Any] = {
        "source": fingerprint(task.path),
        "ladder": [config.zooms.kind, config.zooms.names],
        "networks": [identity.encoder, identity.autoencoder or ""],
        "regions": [config.tile_px, config.tissue_shares, config.regions_per_scale, config.seed],
        "partial": [config.partial, config.valid_share],
        "images": config.images,
        "mpp": [config.mpp, task.mpp],
    }
    if config.zooms.kind in READING:
        depends["reading"] = READING[config.zooms.kind]
    if config.coordinates:
        depends["coordinates"] = fingerprint(file_of(task.path, config.coordinates, COORDINATES))
    if config.encoder.embeddings:
        depends["embeddings"] = fingerprint(file_of(task.path, config.encoder.embeddings, EMBEDDINGS))
    return json.dumps(depends)


def is_prepared(target: Path, wanted: str) -> bool:
    """Whether `target` is a whole file made with the settings `wanted`."""
    if not target.exists():
        return False
    try:
        return SlideFile(target).attrs.get("settings") == wanted
    except UserError:
        return False
