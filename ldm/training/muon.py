"""timm's Muon, orthogonalising in a type that the device computes natively.

Muon (Jordan et al. 2024) replaces the update of a matrix by its nearest orthogonal matrix, five Newton-Schulz
iterations away. timm iterates in bf16 for any training precision; where bf16 is emulated, this takes longer than the
forward and backward passes together.
"""

from functools import partial
from typing import Any

import timm.optim
import timm.optim.muon
import torch

from ldm.support.precision import DTYPES, choose


class Muon(timm.optim.Muon):
    """timm.optim.Muon with its arguments; iterates in bf16 where that is native, in fp32 elsewhere."""

    def step(self, closure: Any = None) -> Any:
        """One update of every parameter; returns the closure's loss."""
        device = next(weight.device for group in self.param_groups for weight in group["params"])
        dtype = getattr(torch, DTYPES[choose("auto", device)])
        theirs = timm.optim.muon.zeropower_via_newtonschulz  # its dtype argument is not passed by timm
        timm.optim.muon.zeropower_via_newtonschulz = partial(theirs, dtype=dtype)
        try:
            return super().step(closure)  # type: ignore[no-untyped-call]
        finally:
            timm.optim.muon.zeropower_via_newtonschulz = theirs
