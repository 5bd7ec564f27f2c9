"""ControlNet: no effect at first, depends on its hint once trained, never changes the U-Net."""

import pytest
import torch
from torch import Tensor

from benchmarks.fixtures.fill import fill_
from ldm.networks.controlnet import Control, Controlled
from ldm.networks.unet import UNet
from tests.golden.parity import noise

OPTIONS = [
    {"width": 32, "multipliers": [1, 2], "blocks": 1, "attention": [2], "context_dim": 16},
    {"width": 32, "multipliers": [1, 1, 2], "blocks": 2, "attention": [4], "context_dim": 16, "shortcuts": True},
]


@pytest.fixture(params=OPTIONS)
def unet(request: pytest.FixtureRequest) -> UNet:
    network = UNet(**request.param).eval()
    fill_(network.state_dict())
    return network.requires_grad_(False)


@pytest.fixture
def control(unet: UNet) -> Control:
    """Untrained, beside `unet`."""
    control = Control(unet).requires_grad_(True)
    control.trunk.load_state_dict(control.trunk_of(unet.state_dict()))
    return control


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    return noise(1, 2, 3, 16, 16), torch.tensor([3, 700]), noise(2, 2, 65, 16)


def moved(control: Control) -> Control:
    """`control` with no weight at zero."""
    for name, module in (("hint.", control.hint), ("ends.", control.ends)):
        fill_(module.state_dict(), name)
    return control


def test_an_untrained_control_changes_no_bit(unet: UNet, control: Control) -> None:
    steered = Controlled(unet, control, noise(3, 2, 3, 16, 16))
    assert torch.equal(steered(*inputs()), unet(*inputs()))


@torch.no_grad()
def test_a_trained_one_steers_by_its_hint(unet: UNet, control: Control) -> None:
    hints = [noise(seed, 2, 3, 16, 16) for seed in (3, 4)]
    free, *steered = (unet(*inputs()), *(Controlled(unet, moved(control), hint)(*inputs()) for hint in hints))
    for one, other in ((free, steered[0]), (steered[0], steered[1])):
        assert float((one - other).abs().max()) > 1e-3


def test_the_first_step_moves_the_zero_convolutions_alone(unet: UNet, control: Control) -> None:
    Controlled(unet, control, noise(3, 2, 3, 16, 16))(*inputs()).square().mean().backward()
    learns = {name.split(".")[0] for name, p in control.named_parameters() if p.grad is not None and p.grad.any()}
    assert learns == {"ends"}


def test_once_they_moved_every_parameter_of_the_control_learns_and_no_other(unet: UNet, control: Control) -> None:
    Controlled(unet, moved(control), noise(3, 2, 3, 16, 16))(*inputs()).square().mean().backward()
    assert [name for name, p in control.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in unet.parameters())


def test_the_copy_shares_no_memory_with_the_network(unet: UNet, control: Control) -> None:
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    with torch.no_grad():
        for parameter in control.parameters():
            parameter.add_(1)
    assert all(torch.equal(before[name], tensor) for name, tensor in unet.state_dict().items())
