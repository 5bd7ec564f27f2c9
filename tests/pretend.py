"""A simulated device on the CPU: tensors that report "cuda" or "meta", have values, and refuse to mix with others.

    with pretended("cuda") as device:
        model.to(device)
        model.sample("5x")                        # RuntimeError where a tensor was made on the wrong device

Values are real, so whatever depends on them runs as it would, and results can be compared with the CPU's; PyTorch's
fake tensors find the same mistakes but have no values. As on a GPU, a CPU tensor without dimensions may join the
others, and copies and indices may cross. Backward passes run for "meta" alone: PyTorch has no queue for a GPU that is
not there.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
CROSSING = {aten._to_copy, aten.copy_, aten.copy, aten.index, aten._index_put_impl_, aten.index_put_}
"""operations whose arguments may lie on several devices"""
JOINING = {aten.cat, aten.stack}
"""operations that take no CPU tensor beside others, not even one without dimensions"""


class Pretend(Tensor):
    """A view of the CPU tensor `held` that reports `device`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> "Pretend":
        layout = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = torch.Tensor._make_wrapper_subclass(cls, held.shape, **layout, device=device)  # type: ignore[attr-defined]
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.held.tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Pretend({self.held}, {self.device})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: a pretended tensor outside of its block")


class PretendMode(TorchDispatchMode):
    """Runs every operation on the CPU and tracks the device of its result."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = any(isinstance(tensor, Pretend) for tensor in tensors)
        self._check(func, tensors)
        asked = kwargs.get("device")
        if asked is not None:
            there = torch.device(asked).type == self.device.type
            kwargs = {**kwargs, "device": torch.device("cpu")}
        elif func.overloadpacket is aten.copy_:
            there = isinstance(args[0], Pretend)
        if func is aten._efficientzerotensor.default:  # its zeros have no storage that an operation could read
            func = aten.zeros.default
        held = tree_map_only(Pretend, lambda tensor: tensor.held, (args, kwargs))
        out = func(*held[0], **held[1])
        if not there:
            return out
        own = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, Pretend)}
        return tree_map_only(Tensor, lambda made: own[id(made)] if id(made) in own else Pretend(made, self.device), out)

    def _check(self, func: Any, tensors: list[Tensor]) -> None:
        strict = func.overloadpacket in JOINING
        mixes = {isinstance(one, Pretend) for one in tensors if strict or one.dim() or isinstance(one, Pretend)}
        if len(mixes) > 1 and func.overloadpacket not in CROSSING:
            places = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
            raise RuntimeError(f"{func}: expected all tensors on one device, found {places}")


@contextmanager
def pretended(kind: str) -> Iterator[torch.device]:
    """Within the block there is a device of this `kind`, "cuda" or "meta", without autocast."""
    device = torch.device(kind, 0) if kind == "cuda" else torch.device(kind)
    with FakeTensorMode():
        pass  # from here on torch's device guard for CUDA asks no driver
    before = torch.__future__.get_overwrite_module_params_on_conversion()
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # so that weights become tensors of this class
    no_autocast = mock.patch("torch.autocast", return_value=nullcontext())
    try:
        with mock.patch("torch.cuda._lazy_init"), no_autocast, PretendMode(device):
            yield device
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)
