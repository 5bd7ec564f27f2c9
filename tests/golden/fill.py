"""Weights and inputs from formulas, so that golden values need no stored weights.

A weight depends on its full checkpoint name and its shape alone: standard normal v from PCG64(crc32(name)), then

    names ending in weight, 2 or more dimensions    v / sqrt(fan in)
    names ending in weight, 1 dimension             1 + 0.1 v
    names ending in bias                            0.02 v
    pad_token, pos_embedding                        0.5 v
    everything else keeps its value
"""

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def value(key: str, shape: Sequence[int]) -> NDArray[np.float32] | None:
    """The float32 weight of the full name `key`, or None where the formula leaves it alone."""
    if key.endswith("weight"):
        scale, shift = (float(np.prod(shape[1:])) ** -0.5, 0.0) if len(shape) >= 2 else (0.1, 1.0)
    elif key.endswith("bias"):
        scale, shift = 0.02, 0.0
    elif key.rpartition(".")[2] in ("pad_token", "pos_embedding"):
        scale, shift = 0.5, 0.0
    else:
        return None
    return np.float32(shift) + seeded(zlib.crc32(key.encode("ascii")), shape) * np.float32(scale)


def fill_(named: Mapping[str, Tensor], prefix: str = "") -> None:
    """Fill the tensors of a state dict in place, their names completed by `prefix`."""
    for name, tensor in named.items():
        filled = value(prefix + name, tensor.shape)
        if filled is not None:
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(filled))


def seeded(seed: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """A standard normal float32 array."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape), dtype=np.float32)
