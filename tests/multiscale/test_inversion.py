"""Inferred conditions: what a grid depends on, and that they improve the bundled model's samples."""

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.fixtures import toy
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.tensors import from_uint8
from ldm.multiscale.inversion import Inversion
from ldm.multiscale.inversion_loss import DenoisingLoss, inversion_timesteps
from ldm.pipeline import ZoomLDM
from tests.golden.parity import noise


def both(model: ZoomLDM, z_0: Tensor, context: Tensor, seed: int = 0, batch_size: int = 8) -> Tensor:
    inversion = Inversion(model, "5x", seed, batch_size)
    return torch.stack([inversion.from_latents(z_0, 3), inversion.from_context(context, 3)])


def test_neither_batch_size_nor_other_images_change_a_grid(model: ZoomLDM) -> None:
    z_0, context = noise(1, 3, 3, 8, 8), noise(2, 3, 65, toy.WIDTH)
    found = both(model, z_0, context)
    assert found.shape == (2, 3, toy.EMBEDDING, 4, 4)
    torch.testing.assert_close(both(model, z_0, context, batch_size=2), found, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(both(model, z_0[1:], context[1:], seed=1), found[:, 1:], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(both(model, z_0, context, seed=5), found, atol=0.1)


def test_latents_of_another_size_than_a_patch_are_refused(model: ZoomLDM) -> None:
    with pytest.raises(UserError, match="latents of 8x16; a patch of this model is 8x8"):
        Inversion(model, "5x").from_latents(torch.zeros(1, 3, 8, 16))


def test_a_grid_inferred_from_a_patch_explains_it_better_than_a_strangers(demo: ZoomLDM, demo_slide: SlideFile) -> None:
    z_0 = demo.encode(from_uint8(np.stack(demo_slide.images("20x", [0, 5]))))
    own = Inversion(demo, "20x").from_latents(z_0, steps=10)

    def eps(step: int) -> Tensor:
        return noise(step, *z_0.shape)

    loss = DenoisingLoss(
        demo.denoiser, lambda u: demo.context(u, "20x"), z_0, demo.alpha_bar, inversion_timesteps(4), eps, prior=0
    )

    def total(grids: Tensor) -> float:
        return float(sum(loss(grids, step).sum() for step in range(4)))

    with torch.no_grad():
        assert total(own) < 0.95 * total(own.flip(0))


def test_a_context_gives_back_what_lies_in_each_base_tile(demo: ZoomLDM, demo_slide: SlideFile) -> None:
    truth = demo_slide.embedding("5x", 0)[None]
    found = Inversion(demo, "5x").from_context(demo.context(truth, "5x"), steps=60)

    def tiles(grid: Tensor) -> Tensor:
        return demo.context(grid.flatten(2).mT.reshape(16, -1, 1, 1), "20x")

    with torch.no_grad():
        near, far = tiles(found) - tiles(truth), tiles(truth.mean((2, 3), keepdim=True).expand_as(truth)) - tiles(truth)
    assert float(near.square().mean()) < 0.5 * float(far.square().mean())
