"""Operations: counts equal the networks' evaluations."""

from pathlib import Path

import pytest
import torch

from benchmarks.fixtures import toy
from ldm.evaluation.experiments.operations import Counts, WorkCount, counted, full_size, full_size_pflop, worth
from ldm.multiscale.constraint import jvp
from ldm.pipeline import ZoomLDM


def test_evaluations_are_counted_in_patches_and_derivatives_apart(world: Path) -> None:
    model = ZoomLDM.load(world / "zoomldm", precision="fp32")
    with counted(model) as work, torch.no_grad():
        model.sample_latents(torch.ones(3, 65, toy.WIDTH), guidance=2.0, steps=2)
        model.encode(torch.zeros(2, 3, toy.TILE_PX, 2 * toy.TILE_PX))
        image = torch.zeros(1, 3, toy.TILE_PX, toy.TILE_PX)
        jvp(model.encode, image, image)
    assert work == WorkCount(Counts(12, 0), Counts(0, 0), Counts(4, 1))


def test_a_derivative_of_the_published_networks_costs_a_little_more_than_two_evaluations() -> None:
    for cost in full_size():
        assert 2 < cost.derivatives / cost.evaluations < 2.15
    unet, decoder, encoder = (cost.evaluations for cost in full_size())
    assert (unet, decoder, encoder) == pytest.approx((210.6, 670.6, 345.2), abs=0.1)


def test_pflop_are_evaluations_and_derivatives_by_their_own_cost() -> None:
    unet, decoder, encoder = full_size()
    work = WorkCount(Counts(10, 0), Counts(2, 0), Counts(0, 3))
    expected = 10 * unet.evaluations + 2 * decoder.evaluations + 3 * encoder.derivatives
    assert full_size_pflop(work) == pytest.approx(expected / 1e6)
    assert worth(work.encoder, encoder) == pytest.approx(3 * encoder.derivatives / encoder.evaluations)
