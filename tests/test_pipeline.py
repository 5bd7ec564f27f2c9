"""The Python API on a toy model: loading, and what a sample depends on."""

import inspect
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.fixtures import toy
from ldm.checkpoint import load_metadata, load_weights, save_weights
from ldm.cli import evaluate
from ldm.cli import sample as sample_patches
from ldm.conditioning_model import ConditioningModel
from ldm.diffusion.defaults import SAMPLER, SAMPLING, STEPS
from ldm.diffusion.schedule import at, target
from ldm.errors import UserError
from ldm.hub import open_source
from ldm.images.tensors import to_uint8
from ldm.latent_diffusion import FOR_LATENT, image_noise
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS, Rule
from ldm.pipeline import ZoomLDM, load_autoencoder
from ldm.support.files import sha256, sidecar


def grids(count: int, side: int = 2) -> list[Tensor]:
    return list(torch.randn(count, toy.EMBEDDING, side, side, generator=torch.Generator().manual_seed(0)))


def test_a_run_folder_brings_everything_that_sampling_needs(model: ZoomLDM) -> None:
    assert model.ladder.names == list(toy.SCALES)
    assert (model.tile_px, model.encoder, model.prediction) == (toy.TILE_PX, "toy", "v")
    assert not any(weight.requires_grad for weight in model.unet.parameters())
    assert not model.unet.training


def test_samples_are_images_of_the_patch_size(model: ZoomLDM) -> None:
    images = model.sample("10x", embeddings=grids(3), steps=2)
    assert images.shape == (3, toy.TILE_PX, toy.TILE_PX, 3)
    assert images.dtype == np.uint8
    assert model.sample("5x", 2, steps=2).shape == (2, toy.TILE_PX, toy.TILE_PX, 3)


def test_a_canvas_is_decoded_in_bands_as_it_is_at_once(model: ZoomLDM) -> None:
    z = torch.randn(3, 70, 90, generator=torch.Generator().manual_seed(0))
    bands = list(model.decode_canvas(z))
    assert len(bands) > 1
    torch.testing.assert_close(torch.cat(bands, dim=1), model.decode_sampled(z[None])[0].detach(), rtol=0, atol=1e-5)


class ExactGaussian(torch.nn.Module):
    """The v of data N(0, std^2), without a condition."""

    def __init__(self, alpha_bar: Tensor, std: float) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))  # tells the device
        self.alpha_bar, self.std = alpha_bar, std
        self.asked: list[int] = []

    def forward(self, z_t: Tensor, t: Tensor, context: Tensor) -> Tensor:
        self.asked.append(int(t[0]))
        a_t = at(self.alpha_bar, t.clamp(max=len(self.alpha_bar) - 1), z_t)
        z_0 = a_t.sqrt() * self.std**2 / (a_t * self.std**2 + 1 - a_t) * z_t
        return target(z_0, (z_t - a_t.sqrt() * z_0) / (1 - a_t).sqrt(), a_t, "v")


@pytest.mark.parametrize("std", [0.3, 0.5, 1.0])
def test_what_is_sampled_by_default_is_as_wide_as_the_data(model: ZoomLDM, std: float) -> None:
    exact = replace(model, unet=ExactGaussian(model.alpha_bar, std))  # type: ignore[arg-type]
    z = exact.sample_latents(torch.zeros(64, 65, toy.WIDTH), batch_size=64)
    start = image_noise(64, z.shape[1:], 0, FOR_LATENT)
    a_0 = float(model.alpha_bar[0])
    assert float(z.std() / start.std()) == pytest.approx((a_0 * std**2 + 1 - a_0) ** 0.5, rel=0.02)


def test_the_commands_sample_as_the_api_does() -> None:
    sampling = inspect.signature(ZoomLDM.sample_latents).parameters
    for args in (
        sample_patches.parse_args([]),
        evaluate.parse_args(["patches"]),
        evaluate.parse_args(["memorization"]),
    ):
        assert {key: getattr(args, key) for key in SAMPLING} == {key: sampling[key].default for key in SAMPLING}


def test_a_distilled_model_samples_in_its_own_steps_unless_told_otherwise(model: ZoomLDM) -> None:
    assert model.usual_sampling() == (SAMPLER, STEPS[SAMPLER])
    assert model.usual_sampling("ddim") == ("ddim", STEPS["ddim"])
    student = replace(model, evaluations=3)
    assert student.usual_sampling() == student.usual_sampling("ddim") == ("ddim", 3)
    assert student.usual_sampling(steps=2) == ("ddim", 2)
    assert student.usual_sampling("dpmpp") == ("dpmpp", STEPS["dpmpp"])


def test_an_interval_limits_guidance_and_the_evaluations_it_takes(model: ZoomLDM) -> None:
    context = model.context(grids(1), "10x")
    null: list[bool] = []
    hook = model.unet.register_forward_pre_hook(lambda unet, inputs: null.append(not inputs[2].any()))
    sampled, nulls = {}, {}
    for interval in (None, (0.0, 1e-9), (0.3, 3.0), (0.0, 1e9)):
        null.clear()
        sampled[interval] = model.sample_latents(context, guidance=3.0, guidance_interval=interval, steps=6)
        nulls[interval] = sum(null)
    hook.remove()
    assert (nulls[None], nulls[0.0, 1e-9], nulls[0.0, 1e9]) == (6, 0, 6)
    assert 0 < nulls[0.3, 3.0] < 6
    plain = model.sample_latents(context, guidance=1.0, steps=6)
    assert torch.equal(sampled[0.0, 1e-9], plain)
    assert torch.equal(sampled[0.0, 1e9], sampled[None])
    assert not torch.allclose(sampled[0.3, 3.0], sampled[None], atol=1e-3)
    assert not torch.allclose(sampled[0.3, 3.0], plain, atol=1e-3)


def test_the_released_sampler_asks_one_past_the_schedule_first(model: ZoomLDM) -> None:
    exact = ExactGaussian(model.alpha_bar, 0.5)
    asking = replace(model, unet=exact)  # type: ignore[arg-type]
    settings = replace(PRESETS["published"], steps=4, rule=Rule(inner=0), seam="none")
    joint = Joint(
        model=asking, scales=["20x"], height=32, width=32, conditions=Unconditional(asking), settings=settings
    )
    for _ in joint.run():
        pass
    assert exact.asked == [1000, 750, 500, 250]


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp"])
def test_the_batch_size_changes_nothing(model: ZoomLDM, sampler: str) -> None:
    context = model.context(grids(5), "10x")
    one, two, all_at_once = (
        model.sample_latents(context, steps=4, sampler=sampler, batch_size=size) for size in (1, 2, 5)
    )
    torch.testing.assert_close(one, all_at_once, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(two, all_at_once, rtol=1e-5, atol=1e-5)


def test_image_i_depends_on_seed_plus_i_alone(model: ZoomLDM) -> None:
    context = model.context(grids(1), "20x").expand(3, -1, -1)
    first, later = (model.sample_latents(context, steps=2, seed=seed) for seed in (7, 8))
    torch.testing.assert_close(first[1:], later[:2], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(first[0], first[1], atol=1e-2)
    drawn, later = (model.sample_context("20x", 3, seed=seed, steps=3) for seed in (7, 8))
    torch.testing.assert_close(drawn[1:], later[:2], rtol=1e-5, atol=1e-5)


def test_a_sample_ignores_and_keeps_the_global_random_state(model: ZoomLDM) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = model.sample("10x", 1, steps=2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    np.testing.assert_array_equal(first, model.sample("10x", 1, steps=2))


def test_conditions_are_taken_in_turn(model: ZoomLDM) -> None:
    two = grids(2)
    more = model.sample("10x", 3, two, steps=2)
    spelled_out = model.sample("10x", embeddings=[two[0], two[1], two[0]], steps=2)
    np.testing.assert_allclose(more.astype(int), spelled_out.astype(int), atol=1)


def test_condition_and_scale_matter_and_guidance_zero_forgets_them(model: ZoomLDM) -> None:
    z_t, t = torch.randn(1, 3, 8, 8), torch.tensor([500])
    one, other = model.context(grids(2), "10x")[:, None]
    assert not torch.allclose(model.denoiser(one)(z_t, t), model.denoiser(other)(z_t, t), atol=1e-4)
    assert not torch.allclose(model.context(grids(1), "20x"), model.context(grids(1), "5x"), atol=1e-3)
    torch.testing.assert_close(model.denoiser(one, 0)(z_t, t), model.denoiser(other, 0)(z_t, t), rtol=0, atol=0)
    null = model.denoiser(torch.zeros_like(one))(z_t, t)
    torch.testing.assert_close(model.denoiser(one, 0)(z_t, t), null, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_stays_near_full_precision(world: Path, model: ZoomLDM, precision: str) -> None:
    half = ZoomLDM.load(world / "zoomldm", precision=precision)
    context = model.context(grids(2), "10x")
    exact, near = model.sample_latents(context, steps=4), half.sample_latents(context, steps=4)
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert float((exact - near).abs().max()) < 0.05 * float(exact.abs().max())


def test_an_image_survives_the_way_to_bytes_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(torch.from_numpy(to_uint8(levels / 127.5 - 1)), levels.permute(0, 2, 3, 1))
    assert to_uint8(torch.tensor([-3.0, 3.0]).reshape(1, 1, 1, 2)).ravel().tolist() == [0, 255]


def test_the_autoencoder_is_the_same_from_its_own_run_and_from_the_whole_model(world: Path, model: ZoomLDM) -> None:
    alone, identity = load_autoencoder(world / "vq")
    inside, _ = load_autoencoder(world / "zoomldm")
    assert identity == f"vq-{sha256(world / 'vq' / 'weights.safetensors')[:12]}"
    z = torch.randn(1, 3, 8, 8)
    assert alone.encode(alone.decode(z)).shape == z.shape
    torch.testing.assert_close(inside.decode(z), model.decode(z), rtol=0, atol=0)


@pytest.mark.parametrize(("rows", "kind", "encoder"), [(8, "histology", "uni"), (4, "satellite", "dinov2")])
def test_a_published_file_is_known_by_its_number_of_scales(tmp_path: Path, rows: int, kind: str, encoder: str) -> None:
    file = tmp_path / "weights.safetensors"
    save_weights(file, {"cond_stage_model.mag_embedding.weight": torch.zeros(rows, 512)})
    config = open_source(file, "zoomldm").config
    assert (config.ladder.kind, config.encoder, config.tile_px) == (kind, encoder, 256)
    assert config.model.summarizer.scales == rows
    with pytest.raises(UserError, match="holds no denoiser"):
        ZoomLDM.load(file)


def test_a_bare_autoencoder_file_must_be_the_published_network(tmp_path: Path) -> None:
    file = tmp_path / "vq.safetensors"
    save_weights(file, toy.networks("autoencoder")["autoencoder"].state_dict())
    with pytest.raises(UserError, match=r"missing: .*encoder\.mid\.attn_1\.q\.weight.*wrong shape: .*\(8192, 3\)"):
        load_autoencoder(file)


def without_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def without_config(folder: Path) -> None:
    (folder / "config.yaml").unlink()


def other_system(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("system: zoomldm", "system: vq"))
    sidecar(config).unlink()


def without_tile_px(folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(f"tile_px: {toy.TILE_PX}", ""))
    sidecar(config).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without_weights, "no weights.safetensors.*zoomldm train --resume"),
        (without_config, "config.yaml does not exist"),
        (other_system, "system vq; expected zoomldm"),
        (without_tile_px, "lacks tile_px"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(
    tmp_path: Path, world: Path, damage: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(world / "zoomldm", tmp_path / "run"))
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        ZoomLDM.load(folder)
    assert "\n" not in str(caught.value)


def test_a_cdm_of_another_model_is_refused(tmp_path: Path, world: Path) -> None:
    other = toy.run_folder(tmp_path / "other", "zoomldm", ladder={"kind": "histology", "scales": 2})
    with pytest.raises(UserError, match="made for 3 scales"):
        ZoomLDM.load(other, cdm=world / "cdm")


def test_a_cdm_learnt_from_another_summarizer_is_refused(tmp_path: Path, world: Path) -> None:
    """Of equal width: its rows permuted, which loads. Another U-Net or decoder, in half precision, does not matter."""
    other = Path(shutil.copytree(world / "zoomldm", tmp_path / "other"))
    shutil.rmtree(other / "preview")  # of the decoder as it is
    tensors = load_weights(other / "weights.safetensors")
    metadata = load_metadata(other / "weights.safetensors")
    same = {name: value if name.startswith("cond_stage") else 2 * value for name, value in tensors.items()}
    save_weights(other / "weights.safetensors", {name: value.half() for name, value in same.items()}, metadata)
    assert ZoomLDM.load(other, cdm=world / "cdm").cdm is not None
    name = "cond_stage_model.mag_embedding.weight"
    save_weights(other / "weights.safetensors", tensors | {name: tensors[name].flip(0)}, metadata)
    message = (
        r"cdm: cdm-\w{12} learnt the contexts of another Summarizer \(\w{12}\) than that of other-\w{12} \(\w{12}\)"
    )
    with pytest.raises(UserError, match=message) as caught:
        ZoomLDM.load(other, cdm=world / "cdm")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="learnt the contexts of another Summarizer"):
        ZoomLDM.load(world / "zoomldm", cdm=toy.run_folder(tmp_path / "c", "cdm", contexts_id="0" * 12))


def test_a_cdm_that_names_no_model_is_for_published_weights_alone(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ZoomLDM.load(world / "zoomldm")
    cdm = replace(ConditioningModel.load(world / "cdm"), contexts_id=None)
    model.check_cdm(cdm, published=True)
    (told,) = capsys.readouterr().err.splitlines()
    assert "does not say which model it is for" in told
    with pytest.raises(UserError, match="its config does not say which"):
        model.check_cdm(cdm)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": "3x"}, "3x is not on the histology ladder"),
        ({"count": 0}, "0 images"),
        ({"steps": 0}, "1 to 500"),
        ({"sampler": "euler"}, "one of dpmpp, ddim"),
        ({"seed": -1}, "negative"),
        ({"embeddings": []}, "at least one grid"),
        ({"embeddings": [torch.zeros(4, 2, 2)]}, "4 channels"),
    ],
)
def test_bad_arguments_are_told_in_one_line(model: ZoomLDM, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model.sample(**{"scale": "20x", "count": 1, **arguments})


def test_what_is_not_there_is_told_in_one_line(world: Path) -> None:
    with pytest.raises(UserError, match="device: abacus"):
        ZoomLDM.load(world / "zoomldm", device="abacus")
    with pytest.raises(UserError, match="cdm: none"):
        ZoomLDM.load(world / "zoomldm").sample("20x")
