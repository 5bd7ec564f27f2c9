"""Operations of sampling: counted for any model, converted to the published networks.

    with counted(model) as work:
        ...
    print(full_size_pflop(work))

A multiply-add is two operations. Those of one evaluation, with or without forward derivative, are counted by running
the published networks on the meta device.
"""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ldm.multiscale.constraint import jvp
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM


@dataclass
class Counts:
    """Evaluations of a network in units of patches: a window twice as high counts as two."""

    evaluations: float = 0
    derivatives: float = 0
    """evaluations together with their forward derivative"""


class WorkCount(NamedTuple):
    """Counts of the three networks."""

    unet: Counts
    decoder: Counts
    encoder: Counts


@contextmanager
def counted(model: ZoomLDM) -> Iterator[WorkCount]:
    """Count the evaluations of `model`'s networks within the context."""
    work = WorkCount(Counts(), Counts(), Counts())
    side = model.tile_px // model.autoencoder.downsample
    autoencoder = model.computing(model.autoencoder)
    networks = (
        (model.computing(model.unet), side),
        (autoencoder.decoder, side),
        (autoencoder.encoder, model.tile_px // autoencoder.patch),
    )

    def hook(counts: Counts, patch: int) -> Callable[..., None]:
        def count(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0]
            patches = len(x) * x.shape[-1] * x.shape[-2] / patch**2
            if forward_ad.unpack_dual(x).tangent is None:
                counts.evaluations += patches
            else:
                counts.derivatives += patches

        return count

    handles = [
        network.register_forward_pre_hook(hook(counts, patch))
        for counts, (network, patch) in zip(work, networks, strict=True)
    ]
    try:
        yield work
    finally:
        for handle in handles:
            handle.remove()


@cache
def full_size() -> WorkCount:
    """GFLOP of the published networks on a 256 px patch."""
    with torch.device("meta"):
        return costs(UNet(), Autoencoder(), tile_px=256, context_dim=512)


def costs(unet: UNet, autoencoder: Autoencoder, tile_px: int, context_dim: int) -> WorkCount:
    """GFLOP of each network for a patch: one evaluation, and one with its forward derivative.

    Copies of them are run on the meta device.
    """
    unet = copy.deepcopy(unet).requires_grad_(False).to("meta")
    autoencoder = copy.deepcopy(autoencoder).requires_grad_(False).to("meta")
    side = tile_px // autoencoder.downsample
    with torch.device("meta"):
        z, x = torch.zeros(1, 3, side, side), torch.zeros(1, 3, tile_px, tile_px)
        t, context = torch.zeros(1), torch.zeros(1, 65, context_dim)
    calls = (
        (lambda z: unet(z, t, context), z),
        (partial(autoencoder.decode, quantize=False), z),
        (autoencoder.encode, x),
    )
    return WorkCount(*(Counts(gflop(partial(call, at)), gflop(partial(jvp, call, at, at))) for call, at in calls))


def gflop(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops() / 1e9


def pflop(work: WorkCount, costs: WorkCount) -> float:
    """PFLOP of the counted evaluations at the given `costs`, of these or other networks."""
    return sum(worth(done, cost) * cost.evaluations for done, cost in zip(work, costs, strict=True)) / 1e6


def full_size_pflop(work: WorkCount) -> float:
    """PFLOP of the same evaluations by the published networks."""
    return pflop(work, full_size())


def worth(done: Counts, cost: Counts) -> float:
    """Number of plain evaluations with the same number of operations."""
    return done.evaluations + done.derivatives * cost.derivatives / cost.evaluations
