"""A frozen network with its weights in half precision, converted once.

Under autocast a convolution or linear layer converts its weights at every call: for the published U-Net, 400 M of them
at every step of sampling. The copy holds them converted: the same numbers bit by bit. All else that autocast keeps in
float32, norms and codebooks, is shared with the network; so are convolutions whose weights are added before they are
converted (`Upsample.folded`).
"""

import copy
from typing import TypeVar

import torch
from torch import nn

from ldm.layers.blocks import Upsample

M = TypeVar("M", bound=nn.Module)
CONVERTED = (nn.Conv2d, nn.Linear)


def compute_copy(network: M, dtype: torch.dtype) -> M:
    """A copy of `network` whose convolutions and linear layers are of `dtype`; other weights are the same objects."""
    shared = {id(weight): weight for weight in (*network.parameters(), *network.buffers())}
    copied = copy.deepcopy(network, shared)
    added = {module.conv for module in copied.modules() if isinstance(module, Upsample) and module.folded}
    for module in copied.modules():
        if isinstance(module, CONVERTED) and module not in added:
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.dtype == dtype:
                    continue
                setattr(module, name, nn.Parameter(weight.to(dtype), requires_grad=False))
    return copied
