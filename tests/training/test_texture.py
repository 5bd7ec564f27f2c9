"""The texture terms of the autoencoder's loss, and its discriminator."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ldm.networks.autoencoder import Autoencoder
from ldm.training.discriminator import DetailDiscriminator, Halve
from ldm.training.losses import Reconstruction, TextureLoss
from ldm.training.texture import band_energy_difference, contrast_difference, lattice, stripes
from tests.golden.parity import noise
from tests.networks.gradients import without_gradient


def texture(seed: int, size: int = 64) -> Tensor:
    """Two images (2, 3, size, size) of coloured noise within [-1, 1], stronger on one side."""
    fine = F.avg_pool2d(noise(seed, 2, 3, size + 2, size + 2), 3, stride=1)
    return (fine * torch.linspace(0.1, 1.0, size)).clamp(-1, 1)


def striped(size: int = 64, amplitude: float = 0.01) -> Tensor:
    return amplitude * (1 - 2 * (torch.arange(size) % 2)).expand(1, 3, size, size)


def test_equal_images_have_equal_texture() -> None:
    x = texture(1)
    assert band_energy_difference(x, x).item() == 0


def test_the_right_amount_of_texture_is_nearer_than_none_whatever_its_phases() -> None:
    x, other = texture(1), texture(2)
    smooth = F.interpolate(F.avg_pool2d(x, 8), scale_factor=8.0, mode="bilinear")
    assert (x - other).square().mean() > 1.5 * (x - smooth).square().mean()
    assert band_energy_difference(x, other) < 0.5 * band_energy_difference(x, smooth)
    assert band_energy_difference(x, other) < 0.8 * band_energy_difference(x, 0.6 * other)
    assert band_energy_difference(x, other) < 0.8 * band_energy_difference(x, other.flip(-1)), (
        "strong on the other side"
    )


def test_the_direction_of_lines_counts() -> None:
    place = torch.arange(64.0)
    rising, falling = (torch.sin(0.9 * (place[:, None] + sign * place)).expand(1, 3, 64, 64) for sign in (1, -1))
    shifted = torch.sin(0.9 * (place[:, None] + place) + 1.5).expand(1, 3, 64, 64)
    assert band_energy_difference(rising, shifted) < 0.2 * band_energy_difference(rising, falling)


def test_stripes_of_two_pixels_count_and_texture_as_strong_hardly_does() -> None:
    across = striped()
    for pattern in (across, across.mT, across * across.mT / 0.01):
        assert 0.9 * 0.01 < 3 * stripes(pattern).item() < 1.1 * 0.01
    assert stripes(0.01 * noise(1, 1, 3, 64, 64)) < 0.1 * stripes(across)
    assert stripes(torch.full((1, 3, 64, 64), 0.01)).item() < 1e-8
    slow = across.repeat_interleave(2, -1)[..., :64]  # a period of four pixels
    assert stripes(slow).item() < 1e-8


def test_a_pattern_of_the_latent_cells_counts_and_texture_as_strong_hardly_does() -> None:
    pattern = noise(3, 1, 3, 4, 4)
    pattern = 0.01 * (pattern - pattern.mean(dim=(2, 3), keepdim=True))
    assert torch.allclose(lattice(pattern.repeat(2, 1, 16, 16)), pattern.abs().mean(), rtol=1e-4)
    assert lattice(0.01 * noise(1, 1, 3, 64, 64)) < 0.1 * lattice(pattern.repeat(1, 1, 16, 16))
    assert lattice(torch.full((1, 3, 64, 64), 0.01)).item() < 1e-8
    assert lattice(pattern.repeat_interleave(4, -1).repeat_interleave(4, -2)).item() < 1e-8  # cells unlike each other


def test_dots_at_one_place_of_every_cell_count_whatever_their_sign() -> None:
    dots = torch.zeros(2, 3, 16, 4, 16, 4)
    dots[:, :, :, 1, :, 2] = 0.1 * noise(5, 2, 3, 16, 16)
    dots = dots.reshape(2, 3, 64, 64)
    assert lattice(dots) < 0.1 * dots.abs().amax()
    assert contrast_difference(0.1 * noise(1, 2, 3, 64, 64), dots) > 1
    assert contrast_difference(dots, dots) == 0
    assert contrast_difference(0.1 * noise(1, 8, 3, 64, 64), 0.2 * noise(2, 8, 3, 64, 64)) < 0.1
    assert contrast_difference(texture(8), texture(9)) < 0.2


def test_the_discriminator_halves_without_aliasing() -> None:
    halved = Halve()(striped(32, amplitude=1.0))
    assert halved[..., 1:-1, 1:-1].abs().max() < 1e-6
    assert torch.allclose(Halve()(torch.ones(1, 2, 16, 16))[..., 1:-1, 1:-1], torch.ones(1))


def test_the_discriminator_sees_the_image_and_the_coarse_original() -> None:
    judge, x = DetailDiscriminator(8), texture(1, 32)
    logits = judge(x, x)
    assert logits.shape == (2, 1, 8, 8)
    assert without_gradient(judge, logits) == []
    judge.eval()
    assert not torch.allclose(judge(x, x), judge(x, x.flip(-1)))
    assert not torch.allclose(judge(x, x), judge(x.flip(-1), x))


def test_the_loss_reaches_every_parameter_of_autoencoder_and_discriminator() -> None:
    network = Autoencoder(
        width=16, multipliers=(1, 2), blocks=1, codes=None, patch=2, norm="pixel", attention=False, head=4
    )
    torch.nn.init.normal_(network.decoder.head.conv_out.weight)
    loss, x = TextureLoss(adversary_weight=0.2, width=8), texture(1, 32)
    x_hat, codebook_loss, _ = network(x)
    last_layer = network.decoder.last_layer.weight
    made = Reconstruction(x=x, x_hat=x_hat, codebook_loss=codebook_loss, last_layer=last_layer, step=0)
    total, values = loss(made)
    assert {"pixels", "bands", "stripes", "lattice", "contrast", "adversary"} < set(values)
    assert without_gradient(network, total) == []
    assert all(parameter.grad is None for parameter in loss.parameters()), "no gradient for the discriminator"
    judged, _ = loss.judge(made)
    assert without_gradient(loss, judged) == []


def test_each_term_is_least_for_the_original() -> None:
    loss, x = TextureLoss(), texture(1)
    none = torch.zeros(())
    same = Reconstruction(x=x, x_hat=x, codebook_loss=none, last_layer=none, step=0)
    for changed in (x + striped(), 0.7 * x, F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0), x + 0.1):
        _, values = loss(replace(same, x_hat=changed))
        assert values["pixels"] > 0
        assert values["total_loss"] > loss(same)[0] == 0
