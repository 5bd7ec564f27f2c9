"""The bundled model: small, undamaged, and its samples follow their conditions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fixtures import toy
from ldm.checkpoint import PARTS, load_weights, save_weights
from ldm.commands import bundle as bundle_demo
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.evaluation.experiments.superres_methods import control_for
from ldm.hub import BUNDLED
from ldm.images.tensors import to_uint8
from ldm.pipeline import ZoomLDM, load_autoencoder
from ldm.support.files import intact


def test_the_weights_are_whole_and_small() -> None:
    weights = sorted(BUNDLED.rglob("*.safetensors"))
    assert [path.parent.name for path in weights] == ["cdm", "control", "demo", "vq", "zoomldm"]
    assert all(intact(path) for path in weights)
    sizes = {path.parent.name: path.stat().st_size for path in weights}
    assert sizes.pop("control") < 5e6  # a baseline
    assert sum(sizes.values()) < 25e6  # the model


def test_the_bundled_control_enlarges_for_the_bundled_model_alone(demo: ZoomLDM, tmp_path: Path) -> None:
    control = control_for(None, demo, ["20x", "5x"])
    assert control is not None
    assert control.scales == ["20x", "5x"]
    assert control_for(None, demo, ["20x", "10x"]) is None
    toy_model = ZoomLDM.load(toy.run_folder(tmp_path / "demo", "zoomldm"))  # whatever its folder is called
    assert control_for(None, toy_model, ["20x", "5x"]) is None
    with pytest.raises(UserError, match=r"control: demo steers demo-\w{12}, but the model is demo-"):
        control_for("demo", toy_model, ["20x", "5x"])


def test_slides_prepared_with_the_bundled_autoencoder_are_the_models(demo: ZoomLDM) -> None:
    assert load_autoencoder("demo")[0].latents_id() == demo.latents_id


def test_decoded_latents_look_like_the_slide(demo: ZoomLDM, demo_slide: SlideFile) -> None:
    images = np.stack(demo_slide.images("20x", range(8)))
    x = demo.autoencoder.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    decoded = to_uint8(demo.decode(x))
    mse = ((decoded.astype(float) - images) ** 2).mean()
    assert 10 * np.log10(255**2 / mse) > 25


@pytest.mark.parametrize("scale", ["20x", "10x", "5x", "2.5x"])
def test_a_sample_is_nearer_to_its_own_patch_than_to_others(demo: ZoomLDM, demo_slide: SlideFile, scale: str) -> None:
    rows = range(8)
    real = np.stack(demo_slide.images(scale, rows)).astype(float)
    sampled = demo.sample(scale, embeddings=[demo_slide.embedding(scale, row) for row in rows], steps=10).astype(float)

    def colours(images: np.ndarray) -> np.ndarray:
        """Mean colour of each quadrant, (n, 12)."""
        n, h, w, c = images.shape
        return images.reshape(n, 2, h // 2, 2, w // 2, c).mean((2, 4)).reshape(n, -1)

    distance = np.abs(colours(real)[:, None] - colours(sampled)[None]).mean(2)  # (real, sampled)
    own = np.diag(distance).mean()
    others = distance[~np.eye(len(rows), dtype=bool)].mean()
    assert own < 0.6 * others


def test_contexts_of_the_cdm_differ_between_scales_and_seeds(demo: ZoomLDM) -> None:
    first, second = (demo.sample_context(scale, 2, steps=5) for scale in ("20x", "1.25x"))
    assert (first - second).abs().mean() > 0.1
    assert (first[0] - first[1]).abs().mean() > 0.1


@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_a_new_decoder_goes_into_the_bundled_model_and_new_latents_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    monkeypatch.setattr(bundle_demo, "BUNDLED", tmp_path / "demo")
    autoencoder, run = toy.run_folder(tmp_path / "vq", "vq"), toy.run_folder(tmp_path / "zoomldm", "zoomldm")
    bundle_demo.bundle(run)
    before = load_weights(tmp_path / "demo/zoomldm/weights.safetensors")
    trained = load_weights(autoencoder / "weights.safetensors")
    name = f"{PARTS['autoencoder']}{part}.conv_in.weight"
    save_weights(autoencoder / "weights.safetensors", trained | {name: trained[name] + 1})
    assert bundle_demo.bundle(autoencoder) == tmp_path / "demo/vq"
    after = load_weights(tmp_path / "demo/zoomldm/weights.safetensors")
    assert [key for key in before if not torch.equal(before[key], after[key])] == ([name] if part == "decoder" else [])
