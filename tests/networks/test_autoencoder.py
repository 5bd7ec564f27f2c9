"""The autoencoder against the published VQ-f4, and the properties of the demo's variant."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.fixtures.fill import fill_
from ldm.errors import UserError
from ldm.networks.autoencoder import Autoencoder
from ldm.training.vq import start_from
from tests.golden.parity import error, golden, noise, published_names
from tests.networks.gradients import without_gradient

PREFIX = "first_stage_model."
SMALL: dict[str, Any] = {"width": 32, "blocks": 1, "codes": 256}
DEMO: dict[str, Any] = {
    "width": 32, "multipliers": (1, 2), "blocks": 1, "codes": 64, "patch": 2, "norm": "pixel", "attention": False
}  # fmt: skip
HEADED: dict[str, Any] = {**DEMO, "codes": None, "head": 8}


def filled(**options: Any) -> Autoencoder:
    network = Autoencoder(**options).eval()
    fill_(network.state_dict(), PREFIX)
    return network


@pytest.fixture(scope="module")
def full() -> Autoencoder:
    return filled()


def test_names_shapes_and_order_are_the_published_ones() -> None:
    with torch.device("meta"):
        network = Autoencoder()
    published = {name.removeprefix(PREFIX): s for name, s in published_names("brca").items() if name.startswith(PREFIX)}
    assert [(name, list(value.shape)) for name, value in network.state_dict().items()] == list(published.items())
    assert sum(parameter.numel() for parameter in network.parameters()) == 55_322_782


@pytest.mark.parametrize("size", ["small", "full"])
@torch.no_grad()
def test_codes_agree_with_the_published_ones(size: str, full: Autoencoder) -> None:
    published, network = golden("autoencoder"), full if size == "full" else filled(**SMALL)
    z_q, loss, indices = network.quantize(published[f"{size}_latent"])
    clear = published[f"{size}_margin"] > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(indices[clear].int(), published[f"{size}_indices"][clear])
    assert error(z_q, published[f"{size}_latent_quantised"]) < 1e-6
    assert error(loss, published[f"{size}_codebook_loss"]) < 1e-5


@torch.no_grad()
def test_codes_are_the_nearest_ones_whatever_is_in_memory_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    quantize = filled(**SMALL).quantize
    z, codes = noise(5, 2, 3, 12, 12), quantize.embedding.weight.double()
    exact = torch.cdist(z.double().movedim(1, -1), codes)  # (2, 12, 12, k)
    least = exact.topk(2, largest=False).values
    clear = least[..., 1] - least[..., 0] > 1e-6
    assert clear.float().mean() > 0.99
    z_q, loss, indices = quantize(z)
    assert torch.equal(indices[clear], exact.argmin(-1)[clear])
    assert error(loss, (1 + quantize.beta) * least[..., 0].square().mean() / 3) < 1e-5
    monkeypatch.setattr("ldm.networks.autoencoder.BLOCK", 7 * len(codes))
    assert torch.equal(quantize(z)[2], indices)
    assert torch.equal(quantize(z[1:])[0], z_q[1:])  # a sample's codes are its own


@torch.no_grad()
def test_codes_between_which_latents_lie_are_mixed_and_elsewhere_they_are_the_nearest() -> None:
    quantize = filled(**SMALL).quantize
    codes = quantize.embedding.weight
    distances = torch.cdist(codes, codes).fill_diagonal_(torch.inf)
    first, second = codes, codes[distances.argmin(1)]
    middle, across = (first + second) / 2, F.normalize(second - first)

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        """Of latents (n, 3): mixed and nearest codes (n, 3)."""
        canvas = z.T[None, :, None]  # (1, 3, 1, n)
        return quantize.continuous(canvas)[0, :, 0].T, quantize(canvas)[0][0, :, 0].T

    sides = [both(middle + shift * across) for shift in (-1e-7, 1e-7)]
    jump = (second - first).norm(dim=1)
    (mixed_before, nearest_before), (mixed_after, nearest_after) = sides
    bordering = (nearest_before - nearest_after).norm(dim=1) > 0.5 * jump  # no third code is nearer
    assert bordering.float().mean() > 0.25
    assert ((mixed_before - mixed_after).norm(dim=1)[bordering] < 0.01 * jump[bordering]).all()
    mixed, nearest = both(middle + 0.01 * jump[:, None] * across)
    alone = (nearest - second).norm(dim=1) < 1e-6
    assert alone.float().mean() > 0.25
    torch.testing.assert_close(mixed[alone], nearest[alone], rtol=0, atol=1e-5)


@torch.no_grad()
def test_full_size_decoder_agrees_with_the_published_one(full: Autoencoder) -> None:
    published, z = golden("autoencoder"), noise(2003, 2, 3, 16, 16)[:1]
    assert error(full.decode(z), published["full_decoded_noise"]) < 1e-5
    assert error(full.decode(z, quantize=False), published["full_decoded_noise_unquantised"]) < 1e-5
    assert error(full.decode(published["full_latent"][:1]), published["full_decoded_latent"]) < 1e-5


@torch.no_grad()
def test_small_size_agrees_from_image_to_image() -> None:
    published, network = golden("autoencoder"), filled(**SMALL)
    x = noise(9003, 1, 3, 32, 32).tanh()
    z = network.encode(x)
    assert error(z, published["small_encoded_image"]) < 1e-5
    assert error(network.decode(z), published["small_decoded_image"]) < 1e-5
    assert error(network.decode(z, quantize=False), published["small_decoded_image_unquantised"]) < 1e-5
    assert error(network(x)[0], published["small_decoded_image"]) < 1e-5


@torch.no_grad()
def test_full_size_runs_from_image_to_image(full: Autoencoder) -> None:
    x_hat, _, indices = full(noise(1, 1, 3, 32, 48))
    assert x_hat.shape == (1, 3, 32, 48)
    assert indices.shape == (1, 8, 12)
    assert x_hat.isfinite().all()


@pytest.mark.parametrize("options", [{**SMALL, "width": 64}, DEMO, HEADED])
def test_every_parameter_gets_a_gradient(options: dict[str, Any]) -> None:
    network = filled(**options)
    x_hat, loss, indices = network(noise(1, 2, 3, 32, 32))
    assert x_hat.shape == (2, 3, 32, 32)
    assert indices.shape == (2, 8, 8) if options["codes"] else indices is None
    assert without_gradient(network, x_hat, loss) == []


@pytest.mark.parametrize("options", [SMALL, DEMO])
@torch.no_grad()
def test_quantised_latents_are_codes_and_stay_put(options: dict[str, Any]) -> None:
    network = filled(**options)
    z_q, _, indices = network.quantize(noise(1, 3, 3, 6, 5))
    assert error(z_q, network.quantize.embedding(indices).movedim(-1, 1)) < 1e-6
    assert torch.equal(network.quantize(z_q)[2], indices)


@torch.no_grad()
def test_autocast_does_not_change_codes() -> None:
    network, z = filled(**SMALL), noise(1, 2, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = network.quantize(z)[2]
    assert torch.equal(found, network.quantize(z)[2])


@torch.no_grad()
def test_demo_encodes_a_crop_like_the_whole_away_from_borders() -> None:
    network, x, reach = filled(**DEMO), noise(1, 1, 3, 160, 192), 9
    whole, crop = network.encode(x), network.encode(x[..., 32:128, 64:160])
    found, expected = crop, whole[..., 8:32, 16:40]
    assert error(found[..., reach:-reach, reach:-reach], expected[..., reach:-reach, reach:-reach]) < 1e-5
    assert error(found, expected) > 1e-3


@pytest.mark.parametrize("options", [DEMO, HEADED])
@torch.no_grad()
def test_demo_decodes_a_crop_like_the_whole_away_from_borders(options: dict[str, Any]) -> None:
    network, z = filled(**options), noise(1, 1, 3, 40, 44)
    reach = 4 * network.decoder.reach
    whole, crop = network.decode(z), network.decode(z[..., 4:36, 8:40])
    found, expected = crop, whole[..., 16:144, 32:160]
    assert error(found[..., reach:-reach, reach:-reach], expected[..., reach:-reach, reach:-reach]) < 1e-5
    assert error(found, expected) > 1e-3


@torch.no_grad()
def test_a_new_head_adds_nothing_and_a_trained_one_does() -> None:
    z, without = noise(1, 1, 3, 8, 8), filled(**DEMO)
    new, trained = Autoencoder(**HEADED).eval(), filled(**HEADED)
    start_from(new, without)
    expected = without.decode(z, quantize=False)
    assert torch.equal(new.decode(z), expected)
    assert error(trained.decode(z), expected) > 1e-3


@torch.no_grad()
def test_without_codes_a_rounding_difference_stays_one() -> None:
    z, small = noise(1, 1, 3, 16, 16), 1e-5 * noise(2, 1, 3, 16, 16)
    continuous, coded = filled(**HEADED), filled(**{**DEMO, "codes": 4096})
    assert torch.equal(continuous.decode(z), continuous.decode(z, quantize=False))
    assert error(continuous.decode(z + small), continuous.decode(z)) < 1e-4
    z = coded.quantize.embedding.weight[:256].T.reshape(1, 3, 16, 16)  # halfway between each code and the next one
    z = (z + coded.quantize(z + 0.05)[0]) / 2
    assert error(coded.decode(z + small), coded.decode(z)) > 1e-3


def test_an_autoencoder_starts_from_another_of_its_shape_alone() -> None:
    with pytest.raises(UserError, match=r"init: .* weights are missing or of another shape, encoder\.conv_in"):
        start_from(Autoencoder(**{**HEADED, "width": 16}), Autoencoder(**DEMO))
    with pytest.raises(UserError, match=r"encoder\.mid"):
        start_from(Autoencoder(**{**HEADED, "attention": True}), Autoencoder(**DEMO))


@pytest.mark.parametrize("options", [SMALL, DEMO, HEADED])
@torch.no_grad()
def test_normalised_latents_change_the_latents_and_not_the_images(options: dict[str, Any]) -> None:
    network, x = filled(**options), noise(1, 2, 3, 32, 32)
    z, unquantised = network.encode(x), network.decode(network.encode(x), quantize=False)
    mean, std = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([0.3, 1.5, 4.0])
    network.normalise_latents(mean, std)
    assert error(network.encode(x), (z - mean[:, None, None]) / std[:, None, None]) < 1e-5
    assert error(network.decode(network.encode(x), quantize=False), unquantised) < 1e-5


@torch.no_grad()
def test_one_scale_for_all_channels_keeps_the_codes() -> None:
    network, x = filled(**SMALL), noise(1, 2, 3, 32, 32)
    x_hat, _, indices = network(x)
    network.normalise_latents(torch.tensor([0.5, -1.0, 2.0]), torch.full((3,), 0.7))
    found, _, found_indices = network(x)
    assert torch.equal(found_indices, indices)
    assert error(found, x_hat) < 1e-5


@torch.no_grad()
def test_the_id_of_latents_is_that_of_the_encoding_alone() -> None:
    network = filled(**DEMO)
    first = network.latents_id()
    assert filled(**DEMO).half().latents_id() == first  # as a bundle keeps them
    for parameter in (*network.decoder.parameters(), *network.post_quant_conv.parameters()):
        parameter.mul_(1.5)
    network.quantize.embedding.weight.mul_(1.5)
    assert network.latents_id() == first
    network.normalise_latents(torch.zeros(3), torch.full((3,), 1.5))
    second = network.latents_id()
    network.encoder.conv_in.weight.add_(0.5)
    assert len({first, second, network.latents_id(), filled(**SMALL).latents_id()}) == 4


def test_wrong_use_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="unknown norm batch; it is one of group, pixel"):
        Autoencoder(norm="batch")
    with pytest.raises(UserError, match="image of 30x32 px; both sides must be multiples of 4"):
        Autoencoder(**DEMO).encode(torch.zeros(1, 3, 32, 30))
