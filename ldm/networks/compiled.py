"""A network through torch.compile: one compilation for any number of samples.

    compile_calls(unet)
    unet(z_t, t, context)               # compiled at the first call

The network, its names and its weights stay as they are; only what a call runs is replaced. Compiled code has no forward
derivatives and knows no hooks of inner layers, so calls that need either, or a gradient, run the network as written; so
do those of a single sample, for which PyTorch would compile again.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from ldm.errors import UserError

Backend = Callable[..., Any]
"""a compiler of torch.compile"""

ON_CARDS: dict[str, Any] = {"triton.cudagraphs": True}
"""one launch of a CUDA graph a call: a CPU launches the kernels one by one in twice the time that they run"""


def compile_calls(network: nn.Module, backend: str | Backend = "inductor") -> None:
    """Let calls of `network`, frozen, run compiled code. They raise UserError where this machine cannot compile."""
    as_written = network.forward
    on_card = any(weight.is_cuda for weight in network.parameters())
    options = ON_CARDS if on_card and backend == "inductor" else None
    compiled = torch.compile(as_written, fullgraph=True, backend=backend, options=options)

    def forward(*inputs: Any, **named: Any) -> Any:
        tensors_alone = not named and all(isinstance(given, Tensor) for given in inputs)
        if not tensors_alone or len(inputs[0]) == 1 or _derived(inputs) or _hooked(network):
            return as_written(*inputs, **named)
        for tensor in inputs:
            torch._dynamo.maybe_mark_dynamic(tensor, 0)
        with torch.no_grad():
            if not options:
                return checked_call(compiled, *inputs)
            torch.compiler.cudagraph_mark_step_begin()
            return checked_call(compiled, *inputs).clone()  # the next call of the graph writes over its output

    network.forward = forward


def checked_call(compiled: Any, *inputs: Any) -> Any:
    """compiled(*inputs). UserError, with the compiler's first line, where it cannot be compiled."""
    try:
        return compiled(*inputs)
    except torch._dynamo.exc.TorchDynamoException as error:
        why = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise UserError(
            f"compile: {type(error).__name__}: {why.strip()[:300]}; leave it out, or install what it lacks"
        ) from error


def _derived(tensors: Sequence[Tensor]) -> bool:
    """Whether a derivative of the call is asked for."""
    if torch._C._functorch.peek_interpreter_stack() is not None:  # within torch.func.jvp, vmap ...
        return True
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return True
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def _hooked(network: nn.Module) -> bool:
    """Whether layers within `network` have hooks; its own are called before and after `forward`."""
    inner = (module for module in network.modules() if module is not network)
    return any(module._forward_hooks or module._forward_pre_hooks for module in inner)
