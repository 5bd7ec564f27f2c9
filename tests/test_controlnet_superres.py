"""ControlNet super-resolution on the toy model: trained through the command, loaded, sampled."""

import json
import shutil
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
from ldm.config.objects import load_config
from ldm.controlnet_superres import ControlModel
from ldm.data.h5 import SlideFile
from ldm.errors import UserError
from ldm.evaluation import spaces
from ldm.multiscale.conditions import TokenMap, Unconditional
from ldm.multiscale.joint import Joint
from ldm.networks.controlnet import Control
from ldm.networks.unet import UNet
from ldm.pipeline import ZoomLDM
from ldm.trained_superres import SETTINGS
from ldm.training.checkpoints import newest_checkpoint
from ldm.training.systems import open_data
from tests.golden.parity import noise
from tests.test_evaluate import ToyEncoder

CONFIG = Path(__file__).parents[1] / "configs/demo/controlnet_sr.yaml"
UNET = {key: value for key, value in toy.NETWORKS["denoiser"].items() if key != "target"}
FEW = replace(SETTINGS, steps=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort, the model, and a control trained beside it for two steps."""
    folder = tmp_path_factory.mktemp("control")
    toy.run_folder(folder / "zoomldm", "zoomldm")
    small = training_cohort.of_system("controlnet_sr", training_cohort.make(folder), folder / "zoomldm")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ZOOMLDM_RUN", raising=False)
        run = [f"run={folder / 'run'}", "training.max_steps=2", *small]
        assert main.main(["--base", str(CONFIG), *run]) == 0
        patch.delenv("ZOOMLDM_RUN", raising=False)
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> ZoomLDM:
    return ZoomLDM.load(folder / "zoomldm")


@pytest.fixture(scope="module")
def control(folder: Path, model: ZoomLDM) -> ControlModel:
    """The trained one, its zero convolutions moved further than two steps do."""
    control = ControlModel.load(folder / "run", model)
    for name, module in (("hint.", control.control.hint), ("ends.", control.control.ends)):
        fill_(module.state_dict(), name)
    return control


@pytest.fixture(scope="module")
def untrained(model: ZoomLDM) -> ControlModel:
    network = Control(UNet(**UNET))
    network.trunk.load_state_dict(network.trunk_of(model.unet.state_dict()))
    return ControlModel(network.requires_grad_(False), model, "20x", 4)


def image(joint: Joint) -> Tensor:
    for _ in joint.run():
        pass
    return torch.cat(list(joint.bands()), dim=1)


def test_training_moves_the_control_and_saves_nothing_else(folder: Path, model: ZoomLDM) -> None:
    saved = load_weights(folder / "run" / "weights.safetensors")
    assert {name.split(".")[0] for name in saved} == {"trunk", "hint", "ends"}
    assert any(saved[name].any() for name in saved if name.startswith("ends."))
    checkpoint = torch.load(newest_checkpoint(folder / "run" / "checkpoints"), weights_only=True)
    assert not [name for name in checkpoint["state_dict"] if "unet" in name or "autoencoder" in name]


def test_an_untrained_control_leaves_the_model_s_own_image(untrained: ControlModel, model: ZoomLDM) -> None:
    y = noise(1, 3, 10, 12).clamp(-1, 1)
    conditions = TokenMap(model, noise(2, toy.EMBEDDING, 2, 2))
    alone = Joint(model=model, scales=["20x"], height=40, width=48, conditions=conditions, settings=FEW)
    assert torch.equal(image(untrained.joint(y, conditions, settings=FEW)), image(alone))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 21), (3, 5)])
def test_any_size_is_enlarged_as_asked(control: ControlModel, height: int, width: int) -> None:
    y = noise(1, 3, height, width).clamp(-1, 1)
    found = image(control.joint(y, Unconditional(control.model), settings=FEW))
    assert found.shape == (3, 4 * height, 4 * width)
    assert found.isfinite().all()


def test_the_batch_size_changes_no_pixel_and_the_image_to_enlarge_does(control: ControlModel) -> None:
    y = [noise(seed, 3, 10, 16).clamp(-1, 1) for seed in (1, 2)]
    given = {"conditions": Unconditional(control.model), "settings": FEW}
    first = image(control.joint(y[0], **given))
    torch.testing.assert_close(image(control.joint(y[0], batch_size=1, **given)), first, rtol=0, atol=1e-5)
    assert not torch.allclose(image(control.joint(y[1], **given)), first, atol=1e-2)


def test_a_patch_is_sampled_as_it_is_in_training(control: ControlModel) -> None:
    """One still window: the hint of the canvas is the hint of the patch."""
    y = noise(1, 2, 3, 8, 8).clamp(-1, 1)
    joint = control.joint(y[0], Unconditional(control.model), settings=replace(FEW, seam="none"))
    z_t, t = noise(5, 1, 3, 8, 8), torch.tensor([500])
    context = Unconditional(control.model).context("20x", torch.zeros(1, 2))
    expected = control.steered(control.guide(y[:1])).denoiser(context)(z_t, t)
    torch.testing.assert_close(joint.denoiser("20x", torch.zeros(1, 2, dtype=torch.long))(z_t, t), expected)


def test_a_control_of_other_weights_is_refused(folder: Path, model: ZoomLDM) -> None:
    with pytest.raises(UserError, match=r"control: .* steers zoomldm-\w{12}, but the model is other-0123"):
        ControlModel.load(folder / "run", replace(model, id="other-0123456789ab"))


def test_a_cohort_without_images_is_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder / "cohort", tmp_path / "cohort") / "s1.h5"
    identity = SlideFile(bare).attrs["autoencoder"]
    bare.unlink()
    toy.slide(bare, images=False, encoder="demo", autoencoder=identity)
    config = load_config([folder / "run" / "config.yaml"], [f"data.cohort={bare.parent}"])
    with pytest.raises(UserError, match="holds slides without images; prepare it with images=jpeg"):
        open_data(config)


def test_it_stands_in_the_table_of_super_resolution(folder: Path, control: ControlModel, tmp_path: Path) -> None:
    (tmp_path / "truths").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "truths" / f"{number}.png")
    given = [
        "--model",
        str(folder / "zoomldm"),
        "--control",
        str(folder / "run"),
        "--real",
        str(tmp_path / "truths"),
    ]
    rest = ["--space", "demo", "--accelerator", "cpu", "--out", str(tmp_path), "--count", "2"]
    rest += ["--methods", "bicubic", "controlnet", "controlnet-given"]
    with pytest.raises(UserError, match=r"--control: .*run enlarges between 20x,5x, not 20x,10x"):
        evaluate.main(["superres", *given, *rest, "--scales", "20x,10x"])
    with pytest.raises(UserError, match=r"--methods: controlnet needs a ControlNet and there is none; give --control"):
        evaluate.main(["superres", *given[:2], *given[4:], *rest])
    with pytest.MonkeyPatch.context() as patch:
        toy_encoder = ToyEncoder()
        load = spaces.load_encoder
        patch.setattr(spaces, "load_encoder", lambda name, *more: toy_encoder if name == "toy" else load(name, *more))
        evaluate.main(["superres", *given, *rest, "--scales", "20x,5x"])
    records = json.loads((tmp_path / "superres" / "superres.json").read_text())["records"]
    assert [record["method"] for record in records] == [
        name for name in ("bicubic", "controlnet", "controlnet-given") for _ in range(2)
    ]
    assert all(np.isfinite(record["PSNR"]) for record in records)
    made = (tmp_path / "samples").glob("superres-controlnet*/identity.json")
    assert {json.loads(path.read_text())["weights"]["control"] for path in made} == {control.id}
