"""Checks for NaN and infinities in weights, samples and checkpoints.

They come from damaged weights or slides, overflow in half precision, or too large a learning rate. Clamping, rounding
and quantisation would turn them into valid numbers, so they are checked before.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.support.typed import typed

SHOWN = 3


class NotFiniteError(UserError):
    """Values are NaN or infinite."""


def is_finite(x: Tensor) -> bool:
    """Whether every value of `x` is finite; True for integers, and for tensors without values (meta, fake)."""
    without_values = x.is_meta or type(x).__name__ == "FakeTensor"
    return without_values or not (x.is_floating_point() or x.is_complex()) or bool(torch.isfinite(_plain(x)).all())


def _plain(x: Tensor) -> Tensor:
    """Convert 8-bit types, for which isfinite does not exist."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize == 1 else x


def all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(is_finite(tensor) for tensor in tensors)


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The first names of tensors with a value that is not finite, as text; empty when there is none."""
    names = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def checked(x: Tensor, what: str) -> Tensor:
    """Return `x`. NotFiniteError, with `what`, the number of bad values and the remedy, when it is not finite."""
    if is_finite(x):
        return x
    count = int((~torch.isfinite(x.detach())).sum())
    raise NotFiniteError(
        f"{what}: {count:,} of {x.numel():,} values are NaN or infinite, so nothing was made of them; compute with "
        f"--precision fp32, and if that does not help look at the weights with {typed('doctor')} --model"
    )
