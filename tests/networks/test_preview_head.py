"""The preview head: half the image's resolution, an error that knows its resolution, gradients everywhere."""

import pytest
import torch

from ldm.networks.preview_head import PreviewHead
from tests.golden.parity import noise
from tests.networks.gradients import without_gradient


@pytest.mark.parametrize(("downsample", "size"), [(4, 32), (8, 64)])
def test_it_draws_half_the_resolution(downsample: int, size: int) -> None:
    head = PreviewHead(width=4, layers=1, downsample=downsample)
    assert head(noise(1, 2, 3, 16, 24)).shape == (2, 3, size, size * 3 // 2)


def test_a_pixel_depends_on_latents_within_one_per_convolution() -> None:
    head = PreviewHead(width=4, layers=2).double()
    z = noise(1, 1, 3, 16, 16).double().requires_grad_()
    head(z)[0, :, 16:18, 16:18].sum().backward()
    assert z.grad is not None
    assert z.grad[0].abs().sum(0).nonzero().flatten().unique().tolist() == list(range(5, 12))


def test_its_jacobian_is_that_of_forward_differentiation_and_its_transpose_is_one() -> None:
    head, z, dz = PreviewHead(width=8, layers=2).double(), noise(1, 2, 3, 6, 5).double(), noise(2, 2, 3, 6, 5).double()
    at = head.linearised(z)
    value, derivative = torch.func.jvp(head, (z,), (dz,))
    torch.testing.assert_close(at.value, value)
    torch.testing.assert_close(at.forward(dz), derivative)
    image = noise(3, *value.shape).double()
    torch.testing.assert_close((at.forward(dz) * image).sum(), (dz * at.transposed(image)).sum())


def test_every_parameter_learns() -> None:
    head = PreviewHead(width=4, layers=2)
    assert without_gradient(head, head(noise(1, 2, 3, 8, 8))) == []
