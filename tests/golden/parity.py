"""Golden values of the published networks, and how far from them a result is."""

import gzip
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.fixtures.fill import seeded

FOLDER = Path(__file__).parent


def golden(name: str) -> dict[str, Tensor]:
    """The arrays of one golden file."""
    with np.load(FOLDER / f"{name}.npz") as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays}


def published_names(file: str) -> dict[str, list[int]]:
    """Names and shapes in a published file ("brca", "naip", "small", "cdm"), in its order."""
    names: dict[str, list[int]] = json.loads(gzip.decompress((FOLDER / "names.json.gz").read_bytes()))[file]
    return names


def noise(seed: int, *shape: int) -> Tensor:
    """A standard normal input that the golden values were made with."""
    return torch.from_numpy(seeded(seed, shape))


def error(found: Tensor, expected: Tensor) -> float:
    """Largest difference, in units of the largest expected value."""
    return float((found - expected).abs().max() / expected.abs().max())
