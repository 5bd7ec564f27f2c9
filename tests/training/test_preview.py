"""The preview head: trained on its decoder's images, it comes nearer, knows its error, and fits no other decoder."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import main
from benchmarks.fixtures import toy, training_cohort
from benchmarks.fixtures.fill import fill_
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.images.tensors import from_uint8
from ldm.networks.preview_head import PreviewHead
from ldm.pipeline import ZoomLDM, load_autoencoder
from ldm.preview_model import PreviewModel
from ldm.support.bundled_models import BUNDLED
from ldm.training.preview import resolutions, varied
from tests.golden.parity import noise

ROOT = Path(__file__).parents[2]


def test_it_learns_the_images_of_its_decoder(tmp_path: Path, overrides: list[str]) -> None:
    run, small = tmp_path / "run", training_cohort.of_system("preview", overrides)
    steps = ["training.max_steps=60", "training.validate_every=30", "training.warmup=1", "training.ema=0.5"]
    assert main.main(["--base", str(ROOT / "configs/demo/preview.yaml"), f"run={run}", *small, *steps]) == 0
    os.environ.pop("ZOOMLDM_RUN", None)
    losses = training_cohort.losses(run)
    assert losses[max(losses)] < 0.7 * losses[min(losses)]
    head = PreviewModel.load(run)
    source = next(item.partition("=")[2] for item in small if item.startswith("autoencoder="))
    autoencoder, _ = load_autoencoder(source)
    assert PreviewModel.of(autoencoder, tmp_path, run) is not None
    assert 0 < head.error < losses[min(losses)] ** 0.5  # which sums squares of all resolutions
    assert sorted(path.suffix for path in (run / "samples").iterdir()) == [".png", ".png"]


def test_a_model_takes_the_head_of_its_decoder_and_no_other(world: Path, tmp_path: Path) -> None:
    model = ZoomLDM.load(world / "zoomldm", precision="fp32")
    assert model.preview is not None
    assert set(model.weights) == {"model", "model config", "preview", "preview config"}
    model.save_pretrained(tmp_path / "saved")
    again = ZoomLDM.load(tmp_path / "saved", precision="fp32").preview
    assert again is not None
    assert torch.equal(again.network.conv_out.weight, model.preview.network.conv_out.weight)
    other = toy.run_folder(tmp_path / "other", "preview", decoder_id="0123456789ab")
    with pytest.raises(UserError, match=r"preview: other-\w+ learnt the images of decoder 0123456789ab"):
        ZoomLDM.load(world / "zoomldm", preview=other)


def test_bundled_models_have_one_that_draws_their_patches() -> None:
    for name in ("demo", "satellite"):
        model = ZoomLDM.load(name, precision="fp32")
        assert model.preview is not None
        z = model.encode(from_uint8(np.stack(SlideFile(BUNDLED[name].slide).images(model.ladder.names[0], range(2)))))
        small = F.avg_pool2d(model.decode(z, quantize=False), 4)
        found = F.avg_pool2d(model.preview.linearised(z).value, 2)
        assert (found - small).square().mean().sqrt() < 0.2 * small.std()
        assert 0 < model.preview.error < 0.2


def test_latents_are_blurred_and_noised_and_some_are_left() -> None:
    z = noise(1, 64, 3, 8, 8)
    changed = (varied(z, torch.Generator().manual_seed(0)) - z).square().mean((1, 2, 3)).sqrt()
    assert 4 < (changed == 0).sum() < 32
    assert changed.max() > 0.2


def test_errors_are_compared_at_every_resolution_that_fits() -> None:
    assert [image.shape[-1] for image in resolutions(noise(1, 1, 3, 32, 32), 0)] == [32, 16, 8, 4]
    assert [image.shape[-1] for image in resolutions(noise(1, 1, 3, 64, 64), 1)] == [32, 16, 8, 4]
    head = PreviewHead(width=4, layers=1)
    fill_(head.state_dict(), "preview.")
    assert [image.shape[-1] for image in resolutions(head(noise(1, 1, 3, 2, 2)), 0)] == [4, 2, 1]
