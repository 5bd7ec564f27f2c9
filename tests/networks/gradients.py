"""Whether a loss reaches every parameter of a network."""

import torch
from torch import Tensor, nn

NO_EFFECT = ("attn_1.k.bias",)
"""a shift of all keys cancels in the softmax: these gradients are 0 but for rounding"""


def without_gradient(network: nn.Module, *outputs: Tensor) -> list[str]:
    """Names of the parameters that a random projection of the outputs does not reach."""
    generator = torch.Generator().manual_seed(0)
    loss = sum((output * torch.randn(output.shape, generator=generator)).sum() for output in outputs)
    assert isinstance(loss, Tensor)
    loss.backward()
    return [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or (not parameter.grad.any() and not name.endswith(NO_EFFECT))
    ]
