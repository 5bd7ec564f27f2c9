"""Configs of training and preparation: types and ranges of keys; a mistake is one line, before any work."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from data_prep.preparation_config import load_prepare_config
from ldm.config.objects import build, load_config
from ldm.config.schema import Section, check
from ldm.config.training_config import SCHEMAS, check_config, check_finished
from ldm.errors import UserError
from ldm.support.bundled_models import BUNDLED
from ldm.training.systems import open_run

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "configs/demo"
TRAINING = {
    "max_steps=1.5": "training.max_steps: 1.5 found, expected a whole number",
    "max_steps=-1": "at least 1",
    "max_steps=true": "true found, expected a whole number",
    "checkpoint_every=-1": "at least 1",
    "validate_every=0": "at least 1",
    "accumulate=0": "at least 1",
    "clip=-1": "more than 0",
    "clip=.nan": "finite",
    "ema=2": "less than 1",
    "ema=null": "null found, expected a number",
    "p_uncond=2": "at most 1",
    "warmup=-1": "at least 0",
    "decay_from=1": "less than 1",
    "precision=foo": "'bf16-mixed'",
    "accelerator=foo": "'cpu'",
    "devices=0": "at least 1 or 'auto'",
    "devices=foo": "a whole number or 'auto'",
    "nodes=0": "at least 1",
    "strategy=foo": "'ddp'",
    "keep=worst": "'best'",
    "optimizer.lr=.inf": "finite",
    "optimizer.lr=0": "more than 0",
    "optimizer.lr=fast": '"fast" found, expected a number',
    "optimizer.nesterov=3": "true or false",
    "optimizer=1": "expected a mapping",
    "optimizer={target: torch.optim.LBFGS, lr: 0.1}": "no step from dense gradients",
    "optimizer={target: torch.optim.SparseAdam, lr: 0.1}": "no step from dense gradients",
    "times={target: ldm.networks.unet.UNet}": "timestep_sampling.LogNormal",
}
OTHERS = {
    "data=1": "data: 1 found, expected a mapping",
    "data.batch_size=0": "data.batch_size: 0 found, expected at least 1",
    "data.batch_size=x": "whole number",
    "data.batch_size=null": "null found",
    "data.workers=-1": "at least 0",
    "data.validation_per_scale=0": "at least 1",
    "data.scales=[]": "at least 1 of them",
    "data.scales=[5x, 5x]": "5x found twice",
    "data.scales=[6x]": "6x is not on the histology ladder",
    "data.cohort=null": "expected text",
    "seed=-1": "at least 0",
    "seed=99999999999": "less than 4294967296",
    "tile_px=328": "multiple of 16",
    "ladder.scales=9": "at most 8",
    "ladder.scales=4": "model.summarizer.scales: 5 found, expected 4",
    "ladder.kind=foo": "'satellite'",
    "model.prediction=x": "'eps', 'v' or 'z_0'",
    "model.denoiser.multipliers=[]": "at least 1 of them",
    "model.denoiser.multipliers=[1, 0]": "0 found, expected at least 1",
    "model.denoiser.attention=[3]": "attention at [3] found",
    "model.denoiser.heads=5": "5 heads found",
    "model.denoiser.blocks=0": "at least 1",
    "model.denoiser.shortcuts=7": "true or false",
    "model.denoiser.context_dim=64": "model.denoiser.context_dim: 64 found, expected 128",
    "model.denoiser={target: ldm.networks.dit.DiT}": "UNet",
    "model.summarizer.layers=0": "at least 1",
    "model.summarizer.width=1.5": "whole number",
    "model.schedule={target: ldm.networks.unet.UNet}": "cosine_alpha_bar",
    "run=???": "refused",
}


def refusal(overrides: list[str], name: str = "zoomldm") -> str:
    with pytest.raises(UserError) as error:
        open_run(load_config([DEMO / f"{name}.yaml"], overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("override", [*(f"training.{key}" for key in TRAINING), *OTHERS])
def test_a_value_of_no_sense_is_refused(override: str) -> None:
    expected = OTHERS.get(override) or TRAINING[override.removeprefix("training.")]
    assert expected in refusal([override])


def test_a_patch_must_halve_as_often_as_the_denoiser_does() -> None:
    assert "tile_px: 144 found, expected a multiple of 32" in refusal(
        ["tile_px=144", "model.denoiser.multipliers=[1, 1, 1, 2]"]
    )


@pytest.mark.parametrize(
    ("name", "override", "expected"),
    [
        ("vq", "training.frozen=[encodr]", "'encoder'"),
        ("vq", "training.loss={target: taming.modules.losses.vqperceptual.DummyLoss}", "ReconstructionLoss"),
        ("vq", "training.optimizer={target: torch.nn.Linear, lr: 1}", "training.optimizer"),
        ("vq", "model.autoencoder.multipliers=[1, 2, 2]", "pixels per latent: 8 found, expected 4"),
        ("vq", "data.kind=latents", "'images'"),
        ("cdm", "model.cdm.tokens=64", "model.cdm.tokens: 64 found, expected 65"),
        ("cdm", "model.cdm.scales=4", "model.cdm.scales: 4 found, expected 5"),
        ("controlnet_sr", "model.factor=3", "2, 4, 8 or 16"),
        ("controlnet_sr", "model.control.unet={target: torch.nn.Linear, in_features: 1, out_features: 1}", "UNet"),
    ],
)
def test_every_system_has_its_own(name: str, override: str, expected: str) -> None:
    assert expected in refusal([override], name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training: {max_stpes: 1}", "training has no max_stpes; did you mean max_steps? it takes optimizer"),
        ("ladder: {ccales: 5}", "ladder has no ccales; did you mean scales? it takes kind, scales"),
        ("data: {chort: x}", "data has no chort; did you mean cohort?"),
        ("model: {denoiser: {widht: 1}}", "UNet has no widht; did you mean width?"),
        ("modle: {}", "config has no modle; did you mean model?"),
        ("system: zoomlmd", "system is zoomlmd; did you mean zoomldm?"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path, text: str, expected: str) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(text)
    with pytest.raises(UserError, match=re.escape(expected)):
        open_run(load_config([DEMO / "zoomldm.yaml", more]))


PREPARATION = {
    "mpp=-1": "more than 0",
    "mpp=.nan": "finite",
    "seed=-1": "at least 0",
    "seed=1.5": "whole number",
    "regions_per_scale=0": "at least 1",
    "workers=2.0": "whole number",
    "devices=all": "'auto'",
    "nodes=x": "whole number",
    "partial=crop": "'skip'",
    "images=1": "'png'",
    "tissue_share={20x: lots}": "a number",
    "tissue_share=null": "null found",
    "generate={kind: histology, count: 0, seed: 1, size_px: 4096}": "at least 1",
    "generate.size_px=512": "at least 1024",
    "generate.size_px=1030": "multiple of 256",
    "generate=yes": "mapping",
    "slides=null": "text",
    "out=''": "text",
    "ladder.scales=0": "at least 1",
    "encoder=uni": "mapping",
    "encoder.name=null": "text",
    "accelerator=tpu": "'cuda'",
    "shard=²/3": "I/N",
    "shard=1": "text",
    "batch_size=0": "at least 1",
    "tile_px=true": "whole number",
    "tile_px=100": "multiple of 16",
    "images=gif": "'jpeg' or 'png'",
    "tissue_share=2": "2 found, expected at most 1",
    "workers=-1": "at least 0",
    "shard=3/3": "I from 0 to N - 1",
    "devices=0": "at least 1 or 'auto'",
    "encoder={nam: demo}": "no nam; did you mean name? it takes name, weights",
    "ladder=histology": "expected a mapping",
    "valid_share=x": "a number",
}


@pytest.mark.parametrize("override", PREPARATION)
def test_a_preparation_of_no_sense_is_refused(override: str) -> None:
    with pytest.raises(UserError, match=re.escape(PREPARATION[override])) as error:
        load_prepare_config([DEMO / "data.yaml"], [override])
    assert "\n" not in str(error.value)


def test_an_override_that_no_config_has_is_answered_with_the_nearest() -> None:
    for loaded, key, meant in (
        (lambda item: load_config([DEMO / "zoomldm.yaml"], [item]), "training.max_stpes=1", "max_steps"),
        (lambda item: load_prepare_config([DEMO / "data.yaml"], [item]), "tissue_shar=1", "tissue_share"),
    ):
        with pytest.raises(UserError, match=rf"no config file has {key.partition('=')[0]}; did you mean {meant}\?"):
            loaded(key)


@pytest.mark.parametrize("system", [name for name in SCHEMAS if BUNDLED["demo"].weights(name).is_file()])
def test_the_bundled_runs_keep_to_the_schema(system: str) -> None:
    check_config(load_config([BUNDLED["demo"].folder / system / "config.yaml"]))


def test_a_finished_run_is_asked_only_for_what_makes_the_model() -> None:
    config = load_config([BUNDLED["demo"].folder / "zoomldm" / "config.yaml"])
    del config["training"], config["data"], config["run"], config["seed"]
    check_finished(config, "run")
    for key, value in (("tile_px", 328), ("ladder", {"kind": "histology", "ccales": 5}), ("modl", 1)):
        with pytest.raises(UserError, match="run"):
            check_finished(OmegaConf.create({**config, key: value}), "run")


class Pair(Section):
    one: int
    many: list[float] | None = None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"one": 1, "many": [1, 2.5]}, None),
        ({"one": 1.0}, "x.one: 1.0 found, expected a whole number"),
        ({"one": True}, "x.one: true found"),
        ({"one": "1"}, 'x.one: "1" found'),
        ({"many": []}, "x: lacks one; it takes one, many"),
        ({"one": 1, "many": [1, float("nan")]}, "x.many.1: NaN found, expected a finite number"),
        ({"one": 1, "mnay": 2}, "x has no mnay; did you mean many? it takes one, many"),
        ({"one": object()}, "x: holds something"),
        (None, "x: null found, expected a mapping"),
    ],
)
def test_what_a_schema_allows(values: Any, expected: str | None) -> None:
    if expected is None:
        assert check(Pair, values, "x") == Pair(**values)
        return
    with pytest.raises(UserError, match=re.escape(expected)):
        check(Pair, values, "x")


def test_arguments_of_a_target_keep_to_its_annotations() -> None:
    network: dict[str, Any] = {"target": "ldm.networks.dit.DiT", "layers": 1, "width": 8, "heads": 2}
    for wrong, expected in (({"layers": 0}, "at least 1"), ({"layers": 1.5}, "whole"), ({"heads": None}, "null")):
        with pytest.raises(UserError, match=expected):
            build(network | wrong, "net")
    assert build(network, "net").blocks is not None
