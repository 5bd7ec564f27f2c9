"""The demo's tile encoder: bundled, and reproducible from slides and a seed."""

import torch

from benchmarks.fixtures.slides import tissue_image, write_slide
from data_prep.fit_demo_encoder import fit_demo
from ldm.encoders.demo_encoder import DemoEncoder
from ldm.encoders.tile_encoders import load_encoder


def test_demo_encoder_ships_and_sees_each_tile_on_its_own():
    tiles = torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
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
