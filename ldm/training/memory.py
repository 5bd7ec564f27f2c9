"""Memory of a training step, counted on the meta device."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

STATE_BYTES = 4 + 4 + 8 + 4
"""per trained parameter, float32: weight, gradient, two Adam moments, average"""
CAST_BYTES, BUCKET_BYTES = 2, 4
"""additional bytes of the half-precision copy, and of the gradient's copy with several processes"""


def parameter_count(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def saved_bytes(module: nn.Module, call: Callable[[Any], Any], dtype: torch.dtype) -> int:
    """Bytes that `call(module on meta, computing in dtype)` saves for its backward pass, besides the weights.

    A storage shared by several operations counts once. Operations that autocast keeps in float32, as norms on CUDA, are
    counted in half precision, an error of a few percent: under CUDA's rules with fused attention, an image of the
    paper's network takes 411 MiB; here 431.
    """
    return _saved(module, call, dtype)[0]


def recomputed_bytes(module: nn.Module, call: Callable[[Any], Any], dtype: torch.dtype, kind: type[nn.Module]) -> int:
    """Bytes that one submodule of class `kind` saves, of the one that saves most; `call` as in `saved_bytes`.

    With activation checkpointing of those submodules, they are in memory during the backward pass, one at a time.
    """
    return max(_saved(module, call, dtype, kind)[1], default=0)


def _saved(
    module: nn.Module, call: Callable[[Any], Any], dtype: torch.dtype, kind: type[nn.Module] | None = None
) -> tuple[int, list[int]]:
    """Bytes that `call` saves, and those of each submodule of class `kind`."""
    shapes = {id(weight): nn.Parameter(weight.to("meta"), weight.requires_grad) for weight in module.parameters()}
    ghost = copy.deepcopy(module, shapes).to("meta", dtype)  # does not copy weights
    weights = {tensor.untyped_storage()._cdata for tensor in (*ghost.parameters(), *ghost.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    def size() -> int:
        return sum(storage.nbytes() for storage in kept.values())

    begun: list[int] = []
    parts: list[int] = []
    for part in ghost.modules():
        if kind is not None and isinstance(part, kind):
            part.register_forward_pre_hook(lambda *_: begun.append(size()))
            part.register_forward_hook(lambda *_: parts.append(size() - begun.pop()))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(ghost)
    return size(), parts
