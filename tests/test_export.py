"""Networks in the layout of diffusers: the same outputs, by the real library, and refusals of what it does not have."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.fixtures.fill import fill_
from ldm.cli import export as command
from ldm.commands.export import TOLERANCE, compare, export
from ldm.errors import UserError
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.diffusers_layout import unet_arguments, unet_weights, vq_arguments, vq_weights
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM

diffusers = pytest.importorskip("diffusers", reason="the package to export to is not installed")


@pytest.fixture(scope="module")
def small(world: Path) -> ZoomLDM:
    """A model of the published layout, four levels and three, with few channels; no weight is zero."""
    unet = UNet(width=32, multipliers=(1, 2, 3, 4), heads=1, context_dim=32).eval()
    autoencoder = Autoencoder(width=32, codes=64).eval()
    for network in (unet, autoencoder):
        fill_(network.state_dict(), "export.")
    return replace(ZoomLDM.load(world / "zoomldm"), unet=unet, autoencoder=autoencoder, tile_px=64)


def test_diffusers_gives_the_same_and_loads_it_back(small: ZoomLDM, tmp_path: Path) -> None:
    folders = export(small, tmp_path)
    assert [folder.name for folder in folders] == ["unet", "vqvae"]
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    vq = diffusers.VQModel.from_pretrained(tmp_path / "vqvae")
    compare(small, unet, vq)
    torch.manual_seed(0)
    z, t, context = torch.randn(2, 3, 16, 16), torch.tensor([1, 981]), torch.randn(2, 65, 32)
    with torch.no_grad():
        expected, found = small.unet(z, t, context), unet(z, t, encoder_hidden_states=context).sample
        assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())
        x = torch.rand(1, 3, 64, 64) * 2 - 1
        expected, found = small.autoencoder.encode(x), vq.encode(x).latents
        assert float((found - expected).abs().max()) <= TOLERANCE * float(expected.abs().max())


@pytest.mark.parametrize("attention", [(2,), (1, 4)])
@pytest.mark.parametrize("heads", [1, 4])
def test_attention_and_heads_go_along(attention: tuple[int, ...], heads: int, small: ZoomLDM) -> None:
    unet = UNet(width=32, multipliers=(1, 2, 2), blocks=1, attention=attention, heads=heads, context_dim=32).eval()
    fill_(unet.state_dict(), "export.")
    theirs = diffusers.UNet2DConditionModel(**unet_arguments(unet, 16)).eval()
    theirs.load_state_dict(unet_weights(unet), strict=True)
    vq = diffusers.VQModel(**vq_arguments(small.autoencoder, 64)).eval()
    vq.load_state_dict(vq_weights(small.autoencoder), strict=True)
    compare(replace(small, unet=unet), theirs, vq)


def test_one_weight_that_differs_is_found(small: ZoomLDM) -> None:
    unet = diffusers.UNet2DConditionModel(**unet_arguments(small.unet, 16)).eval()
    unet.load_state_dict(unet_weights(small.unet), strict=True)
    vq = diffusers.VQModel(**vq_arguments(small.autoencoder, 64)).eval()
    vq.load_state_dict(vq_weights(small.autoencoder), strict=True)
    with torch.no_grad():
        unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight[0] += 0.1
    with pytest.raises(UserError, match="its U-Net differs from ours"):
        compare(small, unet, vq)


def test_the_published_networks_have_all_their_names() -> None:
    with torch.device("meta"):
        unet, autoencoder = UNet(), Autoencoder()
        theirs = diffusers.UNet2DConditionModel(**unet_arguments(unet, 64))
        vq = diffusers.VQModel(**vq_arguments(autoencoder, 256))
    for network, weights in ((theirs, unet_weights(unet)), (vq, vq_weights(autoencoder))):
        assert {name: value.shape for name, value in network.state_dict().items()} == {
            name: value.shape for name, value in weights.items()
        }
    assert theirs.config.attention_head_dim == 1
    assert list(theirs.config.down_block_types) == ["DownBlock2D", *["CrossAttnDownBlock2D"] * 3]


def test_the_demo_model_is_refused_in_one_line(tmp_path: Path, demo: ZoomLDM) -> None:
    with pytest.raises(UserError, match="shortcuts from the context, which UNet2DConditionModel lacks") as error:
        command.main(["--to", "diffusers", "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"works on patches of pixels, .*which VQModel lacks"):
        vq_arguments(demo.autoencoder, 128)


def test_without_diffusers_it_is_told_how_to_get_it(
    small: ZoomLDM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'zoomldm\[diffusers\]'"):
        export(small, tmp_path)
