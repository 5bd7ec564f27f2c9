"""Initial values that the default ones of torch do not give."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def zeroed(module: M) -> M:
    """`module` with all parameters 0, so that the branch it ends starts as nothing."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
