"""Weight initialisation."""

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def zeroed(module: M) -> M:
    """`module` with all parameters 0, so that its residual branch starts at 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
