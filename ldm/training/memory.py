"""What a training step needs in memory, counted without computing anything: on the meta device."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

STATE_BYTES = 4 + 4 + 8 + 4
"""per trained parameter, float32: weight, gradient, two Adam moments, average"""
CAST_BYTES, BUCKET_BYTES = 2, 4
"""and its copy in half precision, its copy of the gradient where processes share it"""


def parameter_count(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def saved_bytes(module: nn.Module, call: Callable[[Any], Any], dtype: torch.dtype) -> int:
    """Bytes that `call(module on meta, computing in dtype)` keeps for its backward pass, besides the weights.

    A storage counts once, however many operations keep it. Where autocast would keep some operations in float32, as
    CUDA's does for norms, half precision comes out a few percent off: counted under CUDA's own rules with fused
    attention, an image of the paper's network keeps 411 MiB; here 431.
    """
    shapes = {id(weight): nn.Parameter(weight.to("meta"), weight.requires_grad) for weight in module.parameters()}
    ghost = copy.deepcopy(module, shapes).to("meta", dtype)  # copies no weight
    weights = {tensor.untyped_storage()._cdata for tensor in (*ghost.parameters(), *ghost.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(ghost)
    return sum(storage.nbytes() for storage in kept.values())
