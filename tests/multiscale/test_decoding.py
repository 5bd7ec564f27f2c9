"""Decoding a canvas in windows: equal to decoding it at once where possible, and to the published blending."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.fixtures.fill import fill_
from ldm.layers.statistics import share_statistics
from ldm.multiscale import decoding
from ldm.multiscale.decoding import Decode, blended_bands, decode_bands, exact_bands, spans
from ldm.multiscale.windows import gaussian
from ldm.networks.autoencoder import Autoencoder
from tests.golden.parity import error, golden, noise

LOCAL: dict[str, Any] = {
    "width": 16, "multipliers": (1, 2), "blocks": 1, "codes": 64, "patch": 2, "norm": "pixel", "attention": False
}  # fmt: skip
GROUP = {**LOCAL, "patch": 1, "norm": "group"}
ATTENTION = {**GROUP, "attention": True}


def filled(**options: Any) -> Autoencoder:
    network = Autoencoder(**options).eval()
    fill_(network.state_dict(), "first_stage_model.")
    return network


def uneven(height: int, width: int) -> Tensor:
    """A canvas (3, height, width) with quiet and busy corners: windows differ in their statistics."""
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    return noise(1, 3, height, width) * (0.2 + x * y) + torch.sin(5 * x) * y


def decoder(network: Autoencoder) -> Decode:
    return partial(network.decode, quantize=False)


def double(z: Tensor) -> Tensor:
    """The plainest decoder: every latent is a 2x2 block of pixels."""
    return z.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.mark.parametrize(("length", "side", "reach"), [(100, 16, 5), (97, 16, 5), (26, 16, 5), (27, 16, 5), (9, 16, 5)])
def test_kept_parts_make_up_the_axis_and_are_a_reach_away_from_cuts(length: int, side: int, reach: int) -> None:
    kept = []
    for span in spans(length, side, reach):
        assert 0 <= span.start < span.stop <= length
        assert span.kept.start >= reach or span.start == 0
        assert span.kept.stop <= span.stop - span.start - reach or span.stop == length
        kept += range(span.start + span.kept.start, span.start + span.kept.stop)
    assert kept == list(range(length))


@pytest.mark.parametrize("options", [LOCAL, {**LOCAL, "multipliers": (1, 1, 2), "patch": 1}])
@torch.no_grad()
def test_a_local_decoder_gives_the_pixels_of_the_whole_canvas(options: dict[str, Any]) -> None:
    network, z = filled(**options), noise(1, 3, 45, 61)
    assert network.decoder.local
    bands = list(decode_bands(decoder(network), z, 2, network.decoder.reach, batch=48))
    expected = decoder(network)(z[None])[0]
    assert len(bands) > 1
    assert error(torch.cat(bands, 1), expected) < 3e-6


@pytest.mark.parametrize("options", [LOCAL, {**LOCAL, "multipliers": (1, 1, 2), "blocks": 2, "patch": 1}])
def test_reach_is_how_far_a_pixel_sees(options: dict[str, Any]) -> None:
    network = filled(**options).double()
    reach = network.decoder.reach
    z = noise(1, 1, 3, 2 * reach + 7, 1).double().requires_grad_()
    f = network.downsample
    middle = reach + 3
    network.decode(z, quantize=False)[..., f * middle : f * middle + f, :].sum().backward()
    assert z.grad is not None
    assert z.grad.abs().sum((0, 1, 3)).nonzero().flatten().tolist() == list(range(middle - reach, middle + reach + 1))


@torch.no_grad()
def test_group_norm_with_shared_statistics_gives_the_pixels_of_the_whole_canvas() -> None:
    network, z = filled(**GROUP), uneven(38, 60)
    assert not network.decoder.local
    share = partial(share_statistics, network.decoder)
    bands = list(decode_bands(decoder(network), z, 10, network.decoder.reach, batch=2, share=share))
    expected = decoder(network)(z[None])[0]
    assert len(bands) > 1
    assert error(torch.cat(bands, 1), expected) < 1e-5
    own = torch.cat(list(exact_bands(decoder(network), z, 10, network.decoder.reach)), 1)
    assert error(own, expected) > 0.01


@torch.no_grad()
def test_attention_stays_in_a_window_and_sharing_still_helps() -> None:
    network, z = filled(**ATTENTION), uneven(38, 60)
    expected = decoder(network)(z[None])[0]
    share = partial(share_statistics, network.decoder)
    shared = torch.cat(list(decode_bands(decoder(network), z, 10, network.decoder.reach, share=share)), 1)
    own = torch.cat(list(exact_bands(decoder(network), z, 10, network.decoder.reach)), 1)
    assert 0 < (shared - expected).std() < 0.5 * (own - expected).std()


@torch.no_grad()
def test_sharing_leaves_the_network_as_it_was() -> None:
    network, z = filled(**GROUP), uneven(38, 60)
    before = decoder(network)(z[None])
    share = partial(share_statistics, network.decoder)
    bands = decode_bands(decoder(network), z, 10, network.decoder.reach, share=share)
    next(bands)
    assert torch.equal(decoder(network)(z[None]), before)


def test_a_large_canvas_is_blended_instead_of_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> Decode:
        raise NotImplementedError

    monkeypatch.setattr(decoding, "SHARED_WINDOWS", 4)
    z = noise(1, 3, 30, 41)
    found = torch.cat(list(decode_bands(double, z, 8, reach=2, share=refuse)), 1)
    assert error(found, double(z[None])[0]) < 1e-6
    with pytest.raises(NotImplementedError):
        decode_bands(double, z[:, :20, :20], 8, reach=2, share=refuse)


@pytest.mark.parametrize(("height", "width", "stride"), [(30, 41, None), (8, 8, 3), (5, 19, None), (17, 16, 1)])
def test_blended_windows_cover_every_size_and_agree_with_themselves(
    height: int, width: int, stride: int | None
) -> None:
    z = noise(1, 3, height, width)
    found = torch.cat(list(blended_bands(double, z, 8, stride, batch=3)), 1)
    assert error(found, double(z[None])[0]) < 1e-6


@torch.no_grad()
def test_blending_agrees_with_the_published_one() -> None:
    published, network = golden("decoding"), filled(width=32, blocks=1, codes=256)
    bands = blended_bands(network.decode, noise(7300, 1, 3, 96, 80)[0], 64, 16, batch=2)
    image = ((torch.cat(list(bands), 1) + 1) / 2).clamp(0, 1)
    assert error(image[:, ::8, ::8], published["image"]) < 1e-5
    assert error(gaussian(256)[::8, ::8], published["weight"]) < 1e-6
