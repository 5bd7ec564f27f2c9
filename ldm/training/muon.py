"""timm's Muon, orthogonalising all matrices of a shape at once, in a type that the device computes natively.

Muon (Jordan et al. 2024) replaces the update of a matrix by its nearest orthogonal matrix, five Newton-Schulz
iterations away. timm iterates in bf16 for any training precision; where bf16 is emulated, this takes longer than the
forward and backward passes together. It also takes one matrix after the other, some 50 operations each: on a card,
where a small one costs as much time as its start, this takes longer than the forward and backward passes together.
"""

from collections import defaultdict
from functools import partial
from typing import Any

import timm.optim
import timm.optim.muon
import torch
from torch import Tensor

from ldm.support.precision import DTYPES, choose


class Muon(timm.optim.Muon):
    """timm.optim.Muon with its arguments; iterates in bf16 where that is native, in fp32 elsewhere."""

    def step(self, closure: Any = None) -> Any:
        """One update of every parameter; returns the closure's loss."""
        device = next(weight.device for group in self.param_groups for weight in group["params"])
        dtype = getattr(torch, DTYPES[choose("auto", device)])
        theirs = timm.optim.muon.zeropower_via_newtonschulz, timm.optim.muon.muon  # neither can be passed to timm
        orthogonal = partial(theirs[0], dtype=dtype)
        timm.optim.muon.zeropower_via_newtonschulz = orthogonal
        timm.optim.muon.muon = partial(update, one_by_one=theirs[1], orthogonal=orthogonal)
        try:
            return super().step(closure)  # type: ignore[no-untyped-call]
        finally:
            timm.optim.muon.zeropower_via_newtonschulz, timm.optim.muon.muon = theirs


def update(
    params: list[Tensor],
    grads: list[Tensor],
    momenta: list[Tensor],
    *,
    one_by_one: Any,
    orthogonal: Any,
    **options: Any,
) -> None:
    """What `one_by_one`, timm's `muon`, makes of `params` and `momenta`; with `orthogonal` over stacks of matrices."""
    if options["conv_mode"] != "flatten":
        return one_by_one(params, grads, momenta, **options)
    lr, momentum, adjust = options["lr"], options["momentum"], options["adjust_lr_fn"]
    torch._foreach_mul_(params, 1 - lr * options["weight_decay"])
    torch._foreach_lerp_(momenta, grads, 1 - momentum)
    steps = torch._foreach_lerp(grads, momenta, momentum) if options["nesterov"] else momenta
    of_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, weight in enumerate(params):
        of_shape[len(weight), weight[0].numel()].append(index)
    coefficients = timm.optim.muon.resolve_ns_coefficients(options["ns_coefficients"], timm.optim.muon._COEFFICIENTS)
    for shape, members in of_shape.items():
        stack = torch.stack([steps[index].reshape(shape) for index in members])
        given = {name: options[name] for name in ("eps", "safety_factor", "scale_eps")}
        stack = orthogonal(stack, options["ns_steps"], coefficients, **given).to(params[members[0]].dtype)
        scale = timm.optim.muon.get_lr_scale(torch.Size(shape), adjust) if adjust else 1.0
        moved = [step.reshape(params[index].shape) for index, step in zip(members, stack, strict=True)]
        torch._foreach_add_([params[index] for index in members], moved, alpha=-lr * scale)
