"""What a training step needs in memory, counted without computing anything: on the meta device."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

STATE_BYTES = 4 + 4 + 8 + 4
"""per trained parameter, float32: weight, gradient, two Adam moments, average"""


def parameter_count(modules: Iterable[nn.Module]) -> int:
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def saved_elements(module: nn.Module, call: Callable[[Any], Any]) -> int:
    """Elements that `call(module on meta)` keeps for its backward pass; a tensor kept twice counts twice."""
    shapes = {id(weight): nn.Parameter(weight.to("meta"), weight.requires_grad) for weight in module.parameters()}
    ghost = copy.deepcopy(module, shapes).to("meta")  # copies no weight
    weights = {id(parameter) for parameter in ghost.parameters()}
    count = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal count
        if id(tensor) not in weights and not isinstance(tensor, nn.Parameter):
            count += tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        call(ghost)
    return count
