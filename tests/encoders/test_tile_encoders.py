"""Tile encoders by name: frozen, of the stated width, with clear messages about missing weights."""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from ldm.checkpoint import save_weights
from ldm.encoders.conch import ConchEncoder
from ldm.encoders.table import IMAGENET, PUBLISHED, SWIGLU, Published
from ldm.encoders.tile_encoders import known_width, load_encoder
from ldm.encoders.timm_encoder import TimmEncoder, build, class_and_mean
from ldm.errors import UserError
from tests import local_hub
from tests.local_hub import Hub, Repo

TINY = "test_vit"


@pytest.fixture
def tiles() -> torch.Tensor:
    return torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_timm_model_by_name_with_local_weights(tmp_path, tiles):
    network = timm.create_model(TINY, pretrained=False)
    save_weights(tmp_path / "tiny.safetensors", network.state_dict())
    encoder = load_encoder(TINY, tmp_path / "tiny.safetensors")
    found = encoder(tiles)
    assert found.shape == (3, encoder.width) == (3, network.num_features)
    assert encoder.id.startswith(f"{TINY}-")
    torch.testing.assert_close(found, load_encoder(TINY, tmp_path / "tiny.safetensors")(tiles))


def test_an_id_names_the_weights_too(tmp_path):
    encoder = load_encoder("demo")
    assert load_encoder(encoder.id).id == encoder.id
    with pytest.raises(UserError, match=f"encoder: {encoder.id} is here, expected demo-0123456789ab"):
        load_encoder("demo-0123456789ab")
    save_weights(tmp_path / "tiny.safetensors", timm.create_model(TINY, pretrained=False).state_dict())
    found = load_encoder(TINY, tmp_path / "tiny.safetensors")
    assert load_encoder(found.id, tmp_path / "tiny.safetensors").id == found.id


@pytest.mark.parametrize(("name", "width"), [("demo", 256), ("colours", 24), ("clip", 512), ("conch", 512)])
def test_widths_are_known_without_weights(name, width):
    assert known_width(name) == width


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "other.safetensors", {"weight": torch.zeros(1)})
    for name in (TINY, "demo"):
        with pytest.raises(UserError, match="other") as error:
            load_encoder(name, tmp_path / "other.safetensors")
        assert "\n" not in str(error.value)


def test_unknown_encoder_is_told_the_known_ones() -> None:
    with pytest.raises(
        UserError, match=r"encoder\.name: unn is unknown; expected demo, satellite, colours, conch, uni, .* timm"
    ):
        load_encoder("unn")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on this machine, and an empty cache."""
    with local_hub.running() as server:
        local_hub.use(monkeypatch, server.url, tmp_path / "cache")
        yield server


def test_gated_weights_are_one_line_with_the_remedy(hub: Hub) -> None:
    hub.repos["MahmoodLab/UNI"] = Repo({"pytorch_model.bin": b"x"}, gated=True)
    with pytest.raises(UserError, match=r"/MahmoodLab/UNI is gated.*hf auth login.*encoder\.weights") as error:
        load_encoder("uni")
    assert "\n" not in str(error.value)


def test_weights_come_from_the_hub(hub: Hub, tmp_path: Path, tiles: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    network = timm.create_model(TINY, pretrained=False)
    save_weights(tmp_path / "tiny.safetensors", network.state_dict())
    hub.repos["timm/test_vit.r160_in1k"] = Repo({"model.safetensors": (tmp_path / "tiny.safetensors").read_bytes()})
    found = load_encoder(TINY)(tiles)
    torch.testing.assert_close(found, load_encoder(TINY, tmp_path / "tiny.safetensors")(tiles))
    assert f"fetching its weights from {hub.url}/timm/test_vit.r160_in1k" in capsys.readouterr().err
    asked = len(hub.asked)
    load_encoder(TINY)
    assert "fetching" not in capsys.readouterr().err
    assert not [path for method, path, _ in hub.asked[asked:] if method == "GET"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_encoder_is_as_wide_as_the_table_says(name: str) -> None:
    row = PUBLISHED[name]
    with torch.device("meta"):
        network, x = build(row).eval(), torch.zeros(2, 3, row.size, row.size)
        found = class_and_mean(network, x) if row.tokens == "class and mean" else network(x)
    assert found.shape == (2, row.width)
    assert known_width(name) == row.width
    if row.tokens == "class":  # and not timm's usual pooling, which for some is the mean
        assert network.global_pool == "token"


WIDTHS = {
    **{"uni": 1024, "uni2-h": 1536, "virchow2": 2560, "h-optimus-0": 1536, "h-optimus-1": 1536, "h0-mini": 1536},
    **{"prov-gigapath": 1536, "phikon-v2": 1024, "hibou-b": 768, "hibou-l": 1024, "gpfm": 1024, "midnight": 3072},
    **{
        "dinov2": 1024,
        "dinov2-l": 1024,
        "clip-l-336": 768,
        "dinov3": 1024,
        "dinov3-sat": 1024,
        "clip": 512,
        "hipt": 384,
    },
}
"""as their publishers state them"""
MILLIONS = {
    **{"virchow2": 631, "h-optimus-0": 1135, "h0-mini": 86, "prov-gigapath": 1135, "hibou-b": 85.7, "hibou-l": 303.7},
}
"""parameters, as their publishers state them"""


def test_the_table_is_what_publishers_state() -> None:
    assert {name: row.width for name, row in PUBLISHED.items()} == WIDTHS
    with torch.device("meta"):
        found = {name: sum(weight.numel() for weight in build(PUBLISHED[name]).parameters()) for name in MILLIONS}
    for name, count in found.items():
        assert round(count / 1e6, 1 if isinstance(MILLIONS[name], float) else None) == MILLIONS[name], name


def test_hibou_has_gated_mlps_as_its_publisher_builds_them() -> None:
    with torch.device("meta"):
        for name, hidden in {"hibou-b": 2048, "hibou-l": 2736}.items():
            mlp = build(PUBLISHED[name]).blocks[0].mlp
            assert (mlp.fc1.out_features, mlp.fc2.in_features) == (2 * hidden, hidden)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Puts a small encoder into the table; returns its network, which is as it will be built."""

    def put(**changes: Any) -> Any:
        options = {"patch_size": 14, "embed_dim": 48, "depth": 2, "num_heads": 2, **changes.pop("options", {})}
        row = Published(**{"hub": "lab/tiny", "size": 28, "normalisation": IMAGENET, "options": options, **changes})
        monkeypatch.setitem(PUBLISHED, "tiny", row)
        return build(row).eval()

    return put


def test_class_and_mean_leave_registers_out(tiny: Callable[..., Any], tmp_path: Path, tiles: Tensor) -> None:
    network = tiny(architecture="vit_base_patch14_reg4_dinov2", width=96, tokens="class and mean")
    save_weights(tmp_path / "tiny.safetensors", network.state_dict())
    encoder = load_encoder("tiny", tmp_path / "tiny.safetensors")
    assert isinstance(encoder, TimmEncoder)
    found = encoder(tiles)
    x = torch.nn.functional.interpolate(
        rearrange(tiles, "n h w c -> n c h w") / 255, (28, 28), mode="bicubic", antialias=True
    )
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in IMAGENET)
    tokens = network.forward_features((x.clamp(0, 1) - mean) / std)
    assert tokens.shape == (3, 1 + 4 + 4, 48)
    torch.testing.assert_close(found, torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], 1))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("swiglu", [False, True])
def test_dinov2_of_transformers_gives_the_same(
    registers: int, swiglu: bool, tiny: Callable[..., Any], tmp_path: Path, tiles: Tensor
) -> None:
    transformers = pytest.importorskip("transformers", reason="the original to compare with is not installed")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 28}
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    extra = {"num_register_tokens": registers} if registers else {}
    config = getattr(transformers, f"{kind}Config")(**sizes, use_swiglu_ffn=swiglu, **extra)
    original = getattr(transformers, f"{kind}Model")(config).eval()
    with torch.no_grad():
        for weight in original.parameters():
            weight.normal_(std=0.3)
    original.save_pretrained(tmp_path)
    ratio = 2 * 128 / 48 if swiglu else 4  # two thirds of 4 x 48, for the gate and for the value
    network = tiny(
        architecture="vit_base_patch14_reg4_dinov2" if registers else "vit_base_patch14_dinov2",
        width=96,
        tokens="class and mean",
        options={"mlp_ratio": ratio, **(SWIGLU if swiglu else {})},
    )
    encoder = load_encoder("tiny", tmp_path / "model.safetensors")
    assert isinstance(encoder, TimmEncoder)
    x = torch.randn(2, 3, 28, 28)
    expected = original(x).last_hidden_state
    expected = torch.cat([expected[:, 0], expected[:, 1 + registers :].mean(1)], 1)
    torch.testing.assert_close(class_and_mean(encoder.network, x), expected, rtol=1e-4, atol=1e-4)
    assert len(network.state_dict()) == len(encoder.network.state_dict())


def test_a_repository_that_timm_saved_comes_by_its_name(hub: Hub, tmp_path: Path, tiles: Tensor) -> None:
    network = timm.create_model(TINY, pretrained=False, num_classes=0).eval()
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    hub.repos["lab/own"] = Repo({path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()})
    encoder = load_encoder("hf-hub:lab/own")
    assert (encoder.id, encoder.width) == ("hf-hub:lab/own", network.num_features)
    save_weights(tmp_path / "tiny.safetensors", network.state_dict())
    torch.testing.assert_close(encoder(tiles), load_encoder(TINY, tmp_path / "tiny.safetensors")(tiles))
    with pytest.raises(UserError, match=r"lab/none does not exist or is private"):
        load_encoder("hf-hub:lab/none")


def test_a_published_file_comes_from_the_hub(
    hub: Hub, tiny: Callable[..., Any], tmp_path: Path, tiles: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tiny(architecture="vit_base_patch14_dinov2", width=48, files=("GPFM.pth",))
    torch.save(network.state_dict(), tmp_path / "GPFM.pth")
    hub.repos["lab/tiny"] = Repo({"GPFM.pth": (tmp_path / "GPFM.pth").read_bytes(), "README.md": b"x"})
    encoder = load_encoder("tiny")
    assert encoder.id == "tiny"
    assert f"fetching its weights from {hub.url}/lab/tiny" in capsys.readouterr().err
    torch.testing.assert_close(encoder(tiles), load_encoder("tiny", tmp_path / "GPFM.pth")(tiles))
    assert "fetching" not in capsys.readouterr().err


def test_hipt_reads_the_teacher_of_a_dino_checkpoint_and_nothing_else(tmp_path, tiles):
    architecture = PUBLISHED["hipt"].architecture
    network: Any = timm.create_model(architecture, pretrained=False, num_classes=0)  # 224 px, as DINO trains
    teacher = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    teacher["head.mlp.0.weight"] = torch.zeros(2, 2)
    checkpoint = {"student": {}, "teacher": teacher, "epoch": 1, "args": argparse.Namespace(lr=1.0)}
    torch.save(checkpoint, tmp_path / "vit256_small_dino.pth")
    encoder = load_encoder("hipt", tmp_path / "vit256_small_dino.pth")
    assert isinstance(encoder, TimmEncoder)
    assert encoder.size == (256, 256)
    assert encoder.mean.flatten().tolist() == [0.5] * 3
    assert encoder(tiles).shape == (3, 384)
    torch.testing.assert_close(encoder.network.blocks[3].mlp.fc1.weight, network.blocks[3].mlp.fc1.weight)


def test_hipt_without_a_file_is_told_where_it_is():
    with pytest.raises(UserError, match=r"set encoder\.weights to HIPT_4K/Checkpoints/vit256_small_dino\.pth of"):
        load_encoder("hipt")


def test_colours_are_histograms_and_blind_to_where(tiles):
    found = load_encoder("colours")(tiles)
    assert found.shape == (3, load_encoder("colours").width)
    torch.testing.assert_close(found.sum(1), torch.full((3,), 3.0))
    torch.testing.assert_close(load_encoder("colours")(tiles.flip(1, 2)), found)
    black = load_encoder("colours")(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))
    assert sorted(black[0].tolist()) == [0.0] * 21 + [1.0] * 3


class Conch(nn.Module):
    """Stands in for the network of the package conch, which is not installed where these tests run."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.ModuleDict({"trunk": nn.Linear(3, 512), "attn_pool_caption": nn.Linear(1, 1)})

    def encode_image(self, images: Tensor, normalize: bool = True, proj_contrast: bool = True) -> Tensor:
        assert not normalize
        assert not proj_contrast
        return self.visual["trunk"](images.mean((2, 3)))


def mean_colour(image: Image.Image) -> Tensor:
    pixel = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    return rearrange(torch.tensor(pixel).float(), "c -> c 1 1")


@pytest.fixture
def conch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that, like the real one, leaves random what a file lacks."""

    def create(config: str, checkpoint_path: str) -> tuple[nn.Module, Callable[[Image.Image], Tensor]]:
        assert config == "conch_ViT-B-16"
        network = Conch()
        network.load_state_dict(torch.load(checkpoint_path, weights_only=True), strict=False)
        return network, mean_colour

    package: Any = ModuleType("conch.open_clip_custom")
    package.create_model_from_pretrained = create
    monkeypatch.setitem(sys.modules, "conch", ModuleType("conch"))
    monkeypatch.setitem(sys.modules, "conch.open_clip_custom", package)


def test_conch_sees_each_tile_as_its_package_transforms_it(conch: None, tmp_path: Path) -> None:
    network, file = Conch(), tmp_path / "pytorch_model.bin"
    published = {name: value for name, value in network.state_dict().items() if "caption" not in name}
    torch.save(published | {"text.weight": torch.zeros(1)}, file)
    encoder = load_encoder("conch", file)
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [90, 80, 70]], dtype=torch.uint8)
    assert isinstance(encoder, ConchEncoder)
    found = encoder(colours[:, None, None].expand(3, 64, 64, 3))
    assert found.shape == (3, encoder.width)
    torch.testing.assert_close(found, network.visual["trunk"](colours.float()))
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert load_encoder(encoder.id, file).id == encoder.id != "conch"


@pytest.mark.parametrize(
    "tensors",
    [
        {"weight": torch.zeros(1)},
        {"visual.trunk.weight": torch.zeros(512, 3)},
        {"visual.trunk.weight": torch.zeros(4, 3), "visual.trunk.bias": torch.zeros(4)},
    ],
    ids=["others", "some", "shapes"],
)
def test_conch_refuses_the_weights_of_another_network(conch: None, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "other.bin")
    with pytest.raises(UserError, match=r"other\.bin is another network's; expected pytorch_model\.bin of") as refusal:
        load_encoder("conch", tmp_path / "other.bin")
    assert "\n" not in str(refusal.value)


def test_conch_that_cannot_be_fetched_is_one_line_with_the_remedy(conch: None, hub: Hub) -> None:
    hub.repos["MahmoodLab/conch"] = Repo({"pytorch_model.bin": b"x"}, gated=True)
    with pytest.raises(UserError, match=r"/MahmoodLab/conch is gated.*hf auth login") as refusal:
        load_encoder("conch")
    assert "\n" not in str(refusal.value)


def test_conch_without_its_package_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "conch", None)
    with pytest.raises(UserError, match=r"authors' package is missing .*; pip install git\+https://") as refusal:
        load_encoder("conch")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["uni", "dinov2", "resnet18"])
def test_a_hub_that_does_not_answer_is_told_at_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_hub.use(monkeypatch, "http://127.0.0.1:1", tmp_path)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was asked, which tries for a minute"))
    message = rf"encoder\.name: {name}: its weights could not be fetched: .* gives no whole answer.*encoder\.weights"
    with pytest.raises(UserError, match=message):
        load_encoder(name)


def test_a_gated_encoder_is_told_its_page_and_the_login_where_nobody_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_hub.use(monkeypatch, "http://127.0.0.1:1", tmp_path)
    with pytest.raises(UserError, match=r"local file; accept its licence at .*/MahmoodLab/UNI and run `hf auth login`"):
        load_encoder("uni")
    with pytest.raises(UserError) as caught:
        load_encoder("phikon-v2")
    assert "licence" not in str(caught.value)
