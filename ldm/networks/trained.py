"""Whether a network can have been trained: its output must be able to depend on its input.

Networks list their bottlenecks: weights of layers that all of the input passes. Where all of them are zero, as the last
layer of a denoiser is before its first training step, the output is a constant.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from ldm.errors import UserError

REMEDY = "so its output cannot depend on its input; take the weights of a finished training, or copy the file again"


@runtime_checkable
class HasBottlenecks(Protocol):
    """A network that lists its bottlenecks."""

    def bottlenecks(self) -> Mapping[str, Sequence[Tensor]]:
        """Name of a layer, or of several side by side -> their weights, of which one value at least is not zero."""


def check_trained(network: nn.Module, what: str) -> None:
    """UserError where all weights of `network`, called `what`, are zero, or all of a bottleneck."""
    if not any(bool(weight.any()) for weight in network.parameters()):
        raise UserError(f"{what}: all weights are zero, {REMEDY}")
    if isinstance(network, HasBottlenecks):
        for name, weights in network.bottlenecks().items():
            if not any(bool(weight.any()) for weight in weights):
                raise UserError(f"{what}: all weights of {name} are zero, {REMEDY}")
