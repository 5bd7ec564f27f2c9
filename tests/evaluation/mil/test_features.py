"""Tile features: activations of the chosen block, a function of the tile alone; complete, resumable bags."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from einops import reduce
from torch import Tensor

import ldm.evaluation.mil.features
from benchmarks.fixtures import toy
from ldm.cli import features as extract_features
from ldm.commands import mil
from ldm.data.bags import read_bag
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.evaluation.mil.features import FeatureExtractor, Probe, denoiser_features, encoder_features
from ldm.pipeline import ZoomLDM


@pytest.fixture(scope="module")
def slide(world: Path) -> SlideFile:
    return SlideFile(world / "slide.h5")


@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_features_are_the_means_of_the_hooked_block(model: ZoomLDM, slide: SlideFile, block: int) -> None:
    rows, t = [0, 5, 7], torch.full((3,), 50)
    kept: list[Tensor] = []
    handle = model.unet.output_blocks[block].register_forward_hook(lambda *call: kept.append(call[2]))
    with torch.no_grad():
        context = model.context([slide.embedding("10x", row) for row in rows], "10x")
        model.unet(slide.latents("10x", rows), t, context)
    handle.remove()
    found = denoiser_features(model, slide, "10x", rows, Probe(block, t=50, clean=True))
    torch.testing.assert_close(found, reduce(kept[0], "n d h w -> n d", "mean"))


def test_blocks_behind_the_one_that_was_asked_for_are_not_run(model: ZoomLDM, slide: SlideFile) -> None:
    ran = []
    handles = [stage.register_forward_hook(lambda *_: ran.append(1)) for stage in model.unet.output_blocks]
    denoiser_features(model, slide, "20x", [0], Probe(block=1))
    for handle in handles:
        handle.remove()
    assert len(ran) == 2


def test_a_tile_has_the_same_features_in_any_company(model: ZoomLDM, slide: SlideFile) -> None:
    together = denoiser_features(model, slide, "20x", [3, 40, 9])
    alone = torch.cat([denoiser_features(model, slide, "20x", [row]) for row in (9, 3, 40)])
    torch.testing.assert_close(together[[2, 0, 1]], alone, rtol=1e-4, atol=1e-5)


def test_the_latent_is_noised_to_t_by_the_tile_and_the_seed(model: ZoomLDM, slide: SlideFile) -> None:
    clean, first, again, other = (
        denoiser_features(model, slide, "20x", [3], probe)
        for probe in (Probe(clean=True), Probe(), Probe(), Probe(seed=1))
    )
    assert torch.equal(first, again)
    for found in (clean, other):
        assert (found - first).abs().max() > 1e-4


def test_latents_of_another_autoencoder_are_refused_and_those_of_another_decoder_are_not(
    model: ZoomLDM, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    autoencoder = ZoomLDM.load(world / "zoomldm").autoencoder
    with torch.no_grad():
        autoencoder.decoder.conv_in.weight.mul_(2)
        own = autoencoder.latents_id()
        autoencoder.quant_conv.weight.mul_(2)
        other = autoencoder.latents_id()
    for name, latents_id in (("own", own), ("other", other)):
        toy.slide(tmp_path / f"cohort/{name}.h5", latents_id=latents_id)
    message = rf"other.h5: its latents are of toy \(latents_id {other}\), but the model's .* \({own}\); give --model"
    with pytest.raises(UserError, match=message) as refusal:
        denoiser_features(model, SlideFile(tmp_path / "cohort/other.h5"), "5x", [0])
    assert "\n" not in str(refusal.value)
    command = [str(tmp_path / "cohort"), "--accelerator", "cpu", "--scales", "5x", "--out", str(tmp_path / "features")]
    command += ["--model", str(world / "zoomldm")]
    assert extract_features.main(command) == 1
    assert [path.name for path in (tmp_path / "features").rglob("*.h5")] == ["own.h5"]
    assert "1 of 2 slides" in capsys.readouterr().out
    assert extract_features.main([*command, "--source", "encoder"]) == 0  # embeddings need no matching autoencoder


def test_encoder_features_are_the_mean_embeddings_under_a_region(slide: SlideFile) -> None:
    found = encoder_features(slide, "5x", [0, 1])
    expected = torch.stack([slide.tokens(0, 0, 0, 4, 4).mean((1, 2)), slide.tokens(0, 0, 4, 4, 4).mean((1, 2))])
    torch.testing.assert_close(found, expected)


def test_bags_hold_every_region_and_fuse(model: ZoomLDM, slide: SlideFile, tmp_path: Path) -> None:
    assert FeatureExtractor(model, ["20x", "5x"], tmp_path, batch_size=7)(slide)
    assert {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.h5")} == {
        f"denoiser-{scales}/slide.h5" for scales in ("20x", "5x", "20x+5x")
    }
    fine, coarse, fused = (read_bag(tmp_path / f"denoiser-{name}/slide.h5") for name in ("20x", "5x", "20x+5x"))
    assert fused.features.shape == (64, 2 * toy.WIDTH)
    np.testing.assert_array_equal(fused.features[:, : toy.WIDTH], fine.features)
    row = int(np.flatnonzero((fine.ij == (5, 2)).all(1))[0])
    parent = int(np.flatnonzero((coarse.ij == (1, 0)).all(1))[0])
    np.testing.assert_array_equal(fused.features[row, toy.WIDTH :], coarse.features[parent])
    assert fused.coords[row].tolist() == [2 * toy.TILE_PX, 5 * toy.TILE_PX]


def test_a_run_that_stops_is_continued_to_the_same_bags(
    model: ZoomLDM, slide: SlideFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FeatureExtractor(model, ["10x", "5x"], tmp_path / "straight", batch_size=8)(slide)
    calls = []

    def stopping(*given: object) -> Tensor:
        calls.append(given)
        if len(calls) == 3:  # in the second batch of the second bag
            raise KeyboardInterrupt
        return denoiser_features(*given)  # type: ignore[arg-type]

    extract = FeatureExtractor(model, ["10x", "5x"], tmp_path / "stopped", batch_size=8)
    with monkeypatch.context() as patch:
        patch.setattr(ldm.evaluation.mil.features, "denoiser_features", stopping)
        with pytest.raises(KeyboardInterrupt):
            extract(slide)
    assert [path.name for path in (tmp_path / "stopped").rglob("*.h5")] == ["slide.h5"]
    (tmp_path / "stopped/denoiser-5x").mkdir()
    (tmp_path / "stopped/denoiser-5x/slide.h5").write_bytes(b"half a file")
    assert extract(slide)
    for name in ("10x", "5x", "10x+5x"):
        first, second = (tmp_path / run / f"denoiser-{name}/slide.h5" for run in ("straight", "stopped"))
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("probe", "message"), [(Probe(block=4), "block: 4 .* 0 to 3"), (Probe(t=1000), "t: 1000 .* 999")]
)
def test_what_the_model_does_not_have_is_told_before_any_work(
    model: ZoomLDM, tmp_path: Path, probe: Probe, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        FeatureExtractor(model, ["20x"], tmp_path, probe=probe)


def test_the_command_goes_on_past_a_slide_that_cannot_be_used(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with h5py.File(toy.slide(tmp_path / "cohort/a.h5"), "r+") as file:
        for table in file["scales/5x"].values():
            table.resize(0, axis=0)
    toy.slide(tmp_path / "cohort/b.h5")
    given = ["--model", str(world / "zoomldm"), "--out", str(tmp_path / "bags"), "--accelerator", "cpu"]
    assert extract_features.main([str(tmp_path / "cohort"), *given, "--scales", "5x,20x", "--source", "encoder"]) == 1
    told = capsys.readouterr().out
    assert "failed: " in told
    assert "a.h5: has no region at 5x" in told
    assert f"bags of 1 of 2 slides are in {tmp_path / 'bags/encoder-20x+5x'}; 1 failed" in told
    assert read_bag(tmp_path / "bags/encoder-20x+5x/b.h5").features.shape == (64, 2 * toy.EMBEDDING)


def test_bags_of_some_of_a_slide_s_tiles_say_so(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.slide(tmp_path / "cohort/a.h5", eligible=json.dumps({"20x": 1000, "10x": 16, "5x": 4}))
    toy.slide(tmp_path / "cohort/b.h5")
    given = ["--model", str(world / "zoomldm"), "--out", str(tmp_path / "bags"), "--accelerator", "cpu"]
    assert extract_features.main([str(tmp_path / "cohort"), *given, "--scales", "20x,5x", "--source", "encoder"]) == 0
    told = "1 of 2 bags hold 64 of their slides' 1,000 tiles with tissue: "
    told += "for all of them, prepare with regions_per_scale=null tissue_share=0"
    assert told in capsys.readouterr().out
    folder = tmp_path / "bags/encoder-20x+5x"
    assert [read_bag(folder / f"{name}.h5").eligible for name in "ab"] == [1000, -1]
    (tmp_path / "labels.csv").write_text("slide,label\na,0\nb,1\nc,\n")
    mil.labelled(str(tmp_path / "labels.csv"), [folder])
    printed = capsys.readouterr().out
    assert f"encoder-20x+5x: {told}" in printed
    assert "1 0 and 1 1; 1 without a label: left out" in printed
