"""Tile encoders by name: frozen, as wide as they say, and plain about weights that they cannot have."""

import argparse

import pytest
import timm
import torch

from data_prep.encoders import PUBLISHED, DemoEncoder, fit_demo, known_width, load_encoder
from ldm.checkpoint import save_weights
from ldm.errors import UserError
from tests.data_prep.slides import tissue_image, write_slide

TINY = "test_vit"


@pytest.fixture
def tiles() -> torch.Tensor:
    return torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_demo_encoder_ships_and_sees_each_tile_on_its_own(tiles):
    encoder = load_encoder("demo")
    found = encoder(tiles)
    assert found.shape == (3, encoder.width)
    assert found.dtype == torch.float32
    assert encoder.id.startswith("demo-")
    torch.testing.assert_close(found[1:2], encoder(tiles[1:2]))
    assert (found[0] - found[1]).abs().max() > 0.01


def test_demo_encoder_is_made_from_slides_and_a_seed(tmp_path):
    write_slide(tmp_path / "slides" / "s.tiff", [tissue_image(512, 512)], 0.5)
    same = [fit_demo(tmp_path / "slides", tmp_path / f"{name}.safetensors", 1) for name in "ab"]
    assert same[0] == same[1] != fit_demo(tmp_path / "slides", tmp_path / "c.safetensors", 2)
    encoder = DemoEncoder.load(tmp_path / "a.safetensors", "cpu")
    tiles = torch.from_numpy(tissue_image(512, 512)[128:256, 128:256].copy())[None]
    assert encoder(tiles).abs().mean() < 3  # a tile like those that were measured


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


def test_clip_is_as_wide_as_its_projection():
    assert known_width("clip") == 512


def test_weights_of_another_network_are_refused(tmp_path):
    save_weights(tmp_path / "other.safetensors", {"weight": torch.zeros(1)})
    for name in (TINY, "demo"):
        with pytest.raises(UserError, match="other") as error:
            load_encoder(name, tmp_path / "other.safetensors")
        assert "\n" not in str(error.value)


def test_unknown_encoder_is_told_the_known_ones():
    with pytest.raises(UserError, match="expected demo, colours, uni, uni2-h, dinov2, clip, hipt or a timm model name"):
        load_encoder("unn")


def test_gated_weights_are_one_line_with_the_remedy(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("401 Client Error\nAccess to model is restricted")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(UserError, match=r"huggingface\.co/MahmoodLab/UNI,.*hf auth login.*encoder\.weights") as error:
        load_encoder("uni")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("name", "width"), [("uni", 1024), ("uni2-h", 1536), ("dinov2", 1024), ("hipt", 384)])
def test_published_architectures_exist(name, width):
    published = PUBLISHED[name]
    with torch.device("meta"):
        network = timm.create_model(published.architecture, pretrained=False, num_classes=0, **published.options)
    assert network.num_features == width


def test_hipt_reads_the_teacher_of_a_dino_checkpoint_and_nothing_else(tmp_path, tiles):
    published = PUBLISHED["hipt"]
    network = timm.create_model(published.architecture, pretrained=False, num_classes=0)  # 224 px, as DINO trains
    teacher = {f"backbone.{name}": value for name, value in network.state_dict().items()}
    teacher["head.mlp.0.weight"] = torch.zeros(2, 2)
    checkpoint = {"student": {}, "teacher": teacher, "epoch": 1, "args": argparse.Namespace(lr=1.0)}
    torch.save(checkpoint, tmp_path / "vit256_small_dino.pth")
    encoder = load_encoder("hipt", tmp_path / "vit256_small_dino.pth")
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
