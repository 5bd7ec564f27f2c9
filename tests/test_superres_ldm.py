"""The super-resolution LDM on the toy model: trained through the command, loaded, sampled, measured."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import main
from benchmarks.fixtures import toy, training_cohort
from benchmarks.fixtures.fill import fill_
from ldm.checkpoint import load_weights
from ldm.cli import evaluate
from ldm.diffusion.samplers import seeded_noise
from ldm.errors import UserError
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.constraint import Shrink
from ldm.multiscale.joint import Joint
from ldm.networks.concatenated import Concatenated
from ldm.pipeline import ZoomLDM
from ldm.superres_ldm import SuperResLDM, at_latents
from ldm.trained_superres import SETTINGS
from tests.golden.parity import noise

CONFIG = Path(__file__).parents[1] / "configs/demo/superres_baseline.yaml"
FEW = replace(SETTINGS, steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, a model of its autoencoder, and a super-resolution LDM trained for two steps."""
    folder = tmp_path_factory.mktemp("superres")
    small = training_cohort.of_system("superres_baseline", training_cohort.make(folder))
    toy.run_folder(folder / "zoomldm", "zoomldm")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ZOOMLDM_RUN", raising=False)
        run = [f"run={folder / 'run'}", *small, "training.max_steps=2", "training.validate_every=2"]
        assert main.main(["--base", str(CONFIG), *run]) == 0
        patch.delenv("ZOOMLDM_RUN", raising=False)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> ZoomLDM:
    return ZoomLDM.load(folder / "zoomldm")


@pytest.fixture(scope="module")
def ldm(folder: Path, model: ZoomLDM) -> SuperResLDM:
    """The trained one, its first and last layers moved further than two steps do."""
    ldm = SuperResLDM.load(folder / "run", model)
    fill_(ldm.unet.state_dict(), "superres")
    return ldm


def image(joint: Joint) -> Tensor:
    for _ in joint.run():
        pass
    return torch.cat(list(joint.bands()), dim=1)


def test_the_run_saves_one_network_and_a_picture(folder: Path) -> None:
    saved = load_weights(folder / "run" / "weights.safetensors")
    assert saved["input_blocks.0.0.weight"].shape[1] == 6
    assert not [name for name in saved if "autoencoder" in name]
    assert list((folder / "run" / "samples").iterdir())


@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 21), (3, 5)])
def test_any_size_is_enlarged_as_asked(ldm: SuperResLDM, height: int, width: int) -> None:
    y = noise(1, 3, height, width).clamp(-1, 1)
    found = image(ldm.joint(y, Unconditional(ldm.model), settings=FEW))
    assert found.shape == (3, 4 * height, 4 * width)
    assert found.isfinite().all()


def test_the_batch_size_changes_no_pixel_and_the_image_to_enlarge_does(
    ldm: SuperResLDM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64: the logic, without a processor's rounding, which depends on the batch."""
    monkeypatch.setattr("ldm.multiscale.windows.seeded_noise", lambda *key: seeded_noise(*key).double())
    networks = {part: deepcopy(getattr(ldm.model, part)).double() for part in ("unet", "summarizer", "autoencoder")}
    model = replace(ldm.model, **networks, alpha_bar=ldm.model.alpha_bar.double())
    exact = replace(ldm, unet=deepcopy(ldm.unet).double(), model=model)
    y = [noise(seed, 3, 10, 16).clamp(-1, 1).double() for seed in (1, 2)]
    given = {"conditions": Unconditional(model), "settings": FEW}
    first = image(exact.joint(y[0], **given))
    torch.testing.assert_close(image(exact.joint(y[0], batch_size=1, **given)), first, rtol=0, atol=1e-9)
    assert not torch.allclose(image(exact.joint(y[1], **given)), first, atol=1e-2)


def test_a_window_is_denoised_as_in_training(ldm: SuperResLDM) -> None:
    """What a window is given is the shrunk patch itself."""
    x = noise(1, 1, 3, 32, 32).clamp(-1, 1)
    y = Shrink(4)(x)
    joint = ldm.joint(y[0], Unconditional(ldm.model), settings=replace(FEW, seam="none"))
    z_t, t = noise(5, 1, 3, 8, 8), torch.tensor([500])
    found = joint.denoiser("20x", torch.zeros(1, 2, dtype=torch.long))(z_t, t)
    given = at_latents(y, 4, 4)
    assert torch.equal(given, y)
    a_t = ldm.model.alpha_bar[500].to(z_t.dtype)
    v = Concatenated(ldm.unet, given)(z_t, t)
    torch.testing.assert_close(found, a_t.sqrt() * v + (1 - a_t).sqrt() * z_t)
    own = torch.cat([z_t, given], 1)
    torch.testing.assert_close(v, ldm.unet(own, t, torch.zeros(1, 1, ldm.unet.context_dim)))


@pytest.mark.parametrize(("factor", "sides"), [(2, (3, 4)), (4, (5, 7)), (8, (10, 14))])
def test_an_image_of_one_colour_is_given_as_it_is(factor: int, sides: tuple[int, int]) -> None:
    colour = torch.tensor([-0.5, 0.0, 0.9])[None, :, None, None]
    found = at_latents(colour.expand(1, 3, 5, 7), factor, 4)
    assert found.shape[2:] == sides
    torch.testing.assert_close(found, colour.expand(1, 3, *sides))


def test_other_latents_are_refused(folder: Path, model: ZoomLDM) -> None:
    other = replace(model, tile_px=64)
    with pytest.raises(UserError, match=r"superres: .*run has tile_px 32, but the model has 64; name another run"):
        SuperResLDM.load(folder / "run", other)
    vars(other := replace(model))["latents_id"] = "0123456789ab"
    with pytest.raises(UserError, match=r"superres: .*run has latents \w{12}, but the model has 0123456789ab"):
        SuperResLDM.load(folder / "run", other)


def test_several_scales_are_refused_before_any_work() -> None:
    with pytest.raises(UserError, match=r"data\.scales: 20x, 5x found, expected the one that images are enlarged to"):
        main.main(["--base", str(CONFIG), "data.scales=[20x,5x]", "--dry-run"])


def test_it_is_a_row_of_super_resolution(folder: Path, ldm: SuperResLDM, tmp_path: Path) -> None:
    (tmp_path / "truths").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "truths" / f"{number}.png")
    given = ["--model", str(folder / "zoomldm"), "--real", str(tmp_path / "truths"), "--space", "demo"]
    given += ["--accelerator", "cpu", "--out", str(tmp_path), "--count", "2", "--methods", "bicubic", "superres-ldm"]
    trained = ["--superres-ldm", str(folder / "run")]
    with pytest.raises(UserError, match=r"--superres-ldm: .*run enlarges between 20x,5x, not 20x,10x"):
        evaluate.main(["superres", *given, *trained, "--scales", "20x,10x"])
    with pytest.raises(UserError, match=r"--methods: superres-ldm needs a super-resolution LDM; give --superres-ldm"):
        evaluate.main(["superres", *given])
    evaluate.main(["superres", *given, *trained, "--scales", "20x,5x"])
    records = json.loads((tmp_path / "superres" / "superres.json").read_text())["records"]
    assert [record["method"] for record in records] == ["bicubic"] * 2 + ["superres-ldm"] * 2
    assert all(np.isfinite(record["PSNR"]) for record in records)
    (made,) = (tmp_path / "samples").glob("superres-superres-ldm*/identity.json")
    assert json.loads(made.read_text())["weights"]["superres"] == ldm.id
