"""Nothing that is not finite passes: neither a weight, nor a sample on its way to pixels, nor a checkpoint.

NaN and infinities come from damaged weights or slides, from half precision that overflows, from a learning rate that is
too large. Clamped, rounded or compared with a codebook they look like numbers again, so they are caught before.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from ldm.errors import UserError
from ldm.support.typed import typed

SHOWN = 3


class NotFiniteError(UserError):
    """Values that should be numbers are NaN or infinite."""


def is_finite(x: Tensor) -> bool:
    """Whether every value of `x` is a number; integers are, and so are tensors that have no values (meta, fake)."""
    without_values = x.is_meta or type(x).__name__ == "FakeTensor"
    return without_values or not (x.is_floating_point() or x.is_complex()) or bool(torch.isfinite(_plain(x)).all())


def _plain(x: Tensor) -> Tensor:
    """Types of one byte have no isfinite of their own."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize == 1 else x


def all_finite(tensors: Iterable[Tensor]) -> bool:
    return all(is_finite(tensor) for tensor in tensors)


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """The first names of the tensors that hold a value that is not finite, in words; empty when there is none."""
    names = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def checked(x: Tensor, what: str) -> Tensor:
    """`x` as it is. NotFiniteError when one of its values is not finite: `what` it is, how many, what helps."""
    if is_finite(x):
        return x
    count = int((~torch.isfinite(x.detach())).sum())
    raise NotFiniteError(
        f"{what}: {count:,} of {x.numel():,} values are NaN or infinite, so nothing was made of them; compute with "
        f"--precision fp32, and if that does not help look at the weights with {typed('doctor')} --model"
    )
