"""The losses of an autoencoder are called alike, ours and the published one."""

from unittest import mock

import pytest
from taming.modules.losses import vqperceptual
from torch import nn

from ldm.training.losses import Reconstruction, TextureLoss, autoencoder_loss, discriminator_loss
from tests.golden.parity import noise
from tests.networks.gradients import without_gradient


def published() -> nn.Module:
    with mock.patch.object(vqperceptual, "LPIPS"):  # its weights would be downloaded
        return vqperceptual.VQLPIPSWithDiscriminator(disc_start=0, perceptual_weight=0.0, disc_num_layers=1, disc_ndf=8)


@pytest.mark.parametrize("make", [published, lambda: TextureLoss(adversary_weight=0.2, width=8)])
def test_one_part_trains_the_autoencoder_and_the_other_the_discriminator(make) -> None:
    loss, decoder, z = make(), nn.Conv2d(3, 3, 1), noise(0, 2, 3, 32, 32)
    made = Reconstruction(
        x=noise(1, 2, 3, 32, 32), x_hat=decoder(z), codebook_loss=z.new_ones(()), last_layer=decoder.weight, step=0
    )
    total, values = autoencoder_loss(loss, made)
    assert "total_loss" in values
    assert without_gradient(decoder, total) == []
    judged, values = discriminator_loss(loss, made)
    assert "disc_loss" in values
    decoder.zero_grad()
    assert without_gradient(loss.discriminator, judged) == []
    assert decoder.weight.grad is None
