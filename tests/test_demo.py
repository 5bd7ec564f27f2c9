"""The bundled models: small, undamaged, and their samples follow their conditions.

A model with an incomplete folder is not in the table, so it is not tested here.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fixtures import toy
from ldm.checkpoint import PARTS, load_metadata, load_weights, save_weights
from ldm.commands import bundle as bundle_demo
from ldm.config.run_config import SETTINGS, load_run_config, model_settings, save_config
from ldm.controlnet_superres import ControlModel
from ldm.data.h5 import SlideFile
from ldm.demo.true_map import CLASSES
from ldm.errors import UserError
from ldm.evaluation.experiments.superres_methods import control_for
from ldm.hub import open_source
from ldm.images.tensors import to_uint8
from ldm.model_slides import matching_slide, tile_place
from ldm.multiscale.palette import check_palette, load_palette
from ldm.pipeline import ZoomLDM, load_autoencoder
from ldm.support import bundled_models
from ldm.support.bundled_models import BUNDLED, BundledModel
from ldm.support.files import intact, write_sidecar


@pytest.fixture(scope="module", params=BUNDLED)
def bundled(request: pytest.FixtureRequest) -> BundledModel:
    """Each of the bundled models in turn."""
    return BUNDLED[request.param]


@pytest.fixture(scope="module")
def model(bundled: BundledModel) -> ZoomLDM:
    return ZoomLDM.load(bundled.name)


@pytest.fixture(scope="module")
def slide(bundled: BundledModel, model: ZoomLDM) -> SlideFile:
    """The model's slide, which no network was trained on."""
    return matching_slide(bundled.slide, model)


def test_the_weights_are_whole_and_small(bundled: BundledModel) -> None:
    weights = sorted(bundled.folder.rglob("*.safetensors"))
    assert all(intact(path) for path in weights)
    sizes = {path.relative_to(bundled.folder).parts[0].split(".")[0]: path.stat().st_size for path in weights}
    assert sizes.pop("control", 0) < 5e6  # a baseline
    assert sizes.pop("student", 0) < 10e6
    assert sizes.keys() == {"cdm", "preview", "vq", "zoomldm", "encoder", "palette"}
    assert sum(sizes.values()) < 25e6  # the model


def test_a_model_is_what_the_package_says_it_is(bundled: BundledModel, model: ZoomLDM, slide: SlideFile) -> None:
    assert model.ladder.kind == bundled.kind
    assert model.encoder.partition("-")[0] == bundled.folder.name
    assert (model.evaluations is not None) == (bundled.teacher is not None)
    assert slide.attrs["slide_id"] == f"{bundled.kind}_{bundled.seed}"
    assert bool(tile_place(slide, bundled.place)) == (bundled.kind == "satellite")
    assert slide.tokens(0, *bundled.place, 4, 4).shape == (model.embedding_width, 4, 4)  # 512 px of it


def test_the_bundled_palette_has_the_classes_of_the_demo_world_and_is_the_models(
    bundled: BundledModel, model: ZoomLDM
) -> None:
    palette = load_palette(bundled.palette)
    check_palette(palette, bundled.palette, model.encoder, model.tile_px, model.ladder.kind)
    assert set(palette.names) == set(CLASSES[bundled.kind])
    assert palette.prototypes.shape[1] == model.embedding_width


def test_the_bundled_control_enlarges_for_the_bundled_model_alone(demo: ZoomLDM, tmp_path: Path) -> None:
    control = control_for(None, demo, ["20x", "5x"])
    assert control is not None
    assert control.scales == ["20x", "5x"]
    assert control_for(None, demo, ["20x", "10x"]) is None
    toy_model = ZoomLDM.load(toy.run_folder(tmp_path / "demo", "zoomldm"))  # whatever its folder is called
    assert control_for(None, toy_model, ["20x", "5x"]) is None
    with pytest.raises(UserError, match=r"control: demo steers demo-\w{12}, but the model is demo-"):
        control_for("demo", toy_model, ["20x", "5x"])


def test_slides_prepared_with_the_bundled_autoencoder_are_the_models(bundled: BundledModel, model: ZoomLDM) -> None:
    assert load_autoencoder(bundled.name)[0].latents_id() == model.latents_id


def test_decoded_latents_look_like_the_slide(model: ZoomLDM, slide: SlideFile) -> None:
    images = np.stack(slide.images(model.ladder.names[0], range(8)))
    x = model.autoencoder.encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 127.5 - 1)
    decoded = to_uint8(model.decode(x))
    mse = ((decoded.astype(float) - images) ** 2).mean()
    assert 10 * np.log10(255**2 / mse) > 25


@pytest.mark.parametrize("zoom", range(4))
def test_a_sample_is_nearer_to_its_own_patch_than_to_others(model: ZoomLDM, slide: SlideFile, zoom: int) -> None:
    scale, rows = model.ladder.names[zoom], range(8)
    real = np.stack(slide.images(scale, rows)).astype(float)
    sampled = model.sample(scale, embeddings=[slide.embedding(scale, row) for row in rows], steps=10).astype(float)

    def colours(images: np.ndarray) -> np.ndarray:
        """Mean colour of each quadrant, (n, 12)."""
        n, h, w, c = images.shape
        return images.reshape(n, 2, h // 2, 2, w // 2, c).mean((2, 4)).reshape(n, -1)

    distance = np.abs(colours(real)[:, None] - colours(sampled)[None]).mean(2)  # (real, sampled)
    own = np.diag(distance).mean()
    others = distance[~np.eye(len(rows), dtype=bool)].mean()
    assert own < 0.6 * others


def test_contexts_of_the_cdm_differ_between_scales_and_seeds(model: ZoomLDM) -> None:
    names = model.ladder.names
    first, second = (model.sample_context(scale, 2, steps=5) for scale in (names[0], names[-1]))
    assert (first - second).abs().mean() > 0.1
    assert (first[0] - first[1]).abs().mean() > 0.1


@pytest.mark.parametrize("part", ["decoder", "encoder"])
@pytest.mark.parametrize(("kind", "name"), [("histology", "demo"), ("satellite", "satellite")])
def test_a_new_decoder_goes_into_the_bundled_model_and_new_latents_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, kind: str, name: str
) -> None:
    monkeypatch.setattr(bundled_models, "WEIGHTS", tmp_path / "weights")
    folder, ladder = tmp_path / "weights" / name, {"kind": kind, "scales": 3}
    autoencoder, run = (toy.run_folder(tmp_path / system, system, ladder=ladder) for system in ("vq", "zoomldm"))
    bundle_demo.bundle(run)
    before = open_source(folder / "zoomldm", "zoomldm").tensors
    trained = load_weights(autoencoder / "weights.safetensors")
    changed = f"{PARTS['autoencoder']}{part}.conv_in.weight"
    save_weights(autoencoder / "weights.safetensors", trained | {changed: trained[changed] + 1})
    assert bundle_demo.bundle(autoencoder) == folder / "vq"
    after = open_source(folder / "zoomldm", "zoomldm").tensors
    different = [key for key in before if not torch.equal(before[key], after[key])]
    assert different == ([changed] if part == "decoder" else [])
    shared = not any(
        key.startswith(PARTS["autoencoder"]) for key in load_weights(folder / "zoomldm/weights.safetensors")
    )
    assert shared == (part == "decoder")  # it is stored once
    assert [path.name for path in (tmp_path / "weights").iterdir()] == [name]


def test_what_a_student_shares_with_its_teacher_is_stored_once_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundled_models, "WEIGHTS", tmp_path / "weights")
    runs = [toy.run_folder(tmp_path / system, system) for system in ("vq", "zoomldm")]
    student = tmp_path / "student"
    shutil.copytree(runs[1], student)
    tensors = load_weights(student / "weights.safetensors")
    moved = {name: tensor + 1 for name, tensor in tensors.items() if name.startswith(PARTS["denoiser"])}
    config = load_run_config(student)
    config.model.evaluations = 3
    save_config(student, config)
    save_weights(student / "weights.safetensors", tensors | moved, {SETTINGS: model_settings(config)})
    for run in (*runs, student):
        folder = bundle_demo.bundle(run)
    assert folder == tmp_path / "weights/demo/student"
    assert load_weights(folder / "weights.safetensors").keys() == moved.keys()
    found, own = (open_source(name, "zoomldm") for name in ("demo-fast", student))
    assert found.name == "demo-fast"
    assert all(torch.equal(found.tensors[name], tensor.half()) for name, tensor in own.tensors.items())
    before = found.id
    autoencoder = load_weights(runs[0] / "weights.safetensors")
    decoder = f"{PARTS['autoencoder']}decoder.conv_in.weight"
    save_weights(runs[0] / "weights.safetensors", autoencoder | {decoder: autoencoder[decoder] + 1})
    bundle_demo.bundle(runs[0])
    again = open_source("demo-fast", "zoomldm")
    assert torch.equal(again.tensors[decoder], (autoencoder[decoder] + 1).half())
    assert again.id != before
    weights = tmp_path / "weights/demo/vq/weights.safetensors"
    save_weights(weights, autoencoder)
    with pytest.raises(UserError, match=r"its autoencoder is in .*vq.weights\.safetensors, which is missing or c"):
        open_source("demo-fast", "zoomldm")


def test_an_edited_config_of_bundled_weights_is_refused_whatever_its_checksum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a training is: both say the settings in the weights file."""
    monkeypatch.setattr(bundled_models, "WEIGHTS", tmp_path / "weights")
    for system in ("zoomldm", "vq", "cdm"):
        run = toy.run_folder(tmp_path / system, system)
        weights = run / "weights.safetensors"
        save_weights(weights, load_weights(weights), {"system": system, "step": "7"})
        folder = bundle_demo.bundle(run)
        found = load_metadata(folder / "weights.safetensors")
        settings = model_settings(load_run_config(folder))
        assert found == {"system": system, "step": "7", SETTINGS: settings}
        open_source(folder, system)
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("encoder: toy", "encoder: other"))
        write_sidecar(config)
        with pytest.raises(UserError, match=r"config\.yaml is of another model than the weights beside it"):
            open_source(folder, system)
        bundle_demo.bundle(run)


def test_the_bundled_control_follows_a_model_whose_denoiser_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "weights/demo"
    shutil.copytree(BUNDLED["demo"].folder, folder)
    monkeypatch.setattr(bundled_models, "WEIGHTS", folder.parent)
    before = load_weights(folder / "control/weights.safetensors")
    for system in ("zoomldm", "control"):
        bundle_demo.bundle(folder / system)
    model = ZoomLDM.load(folder / "zoomldm")
    assert ControlModel.load(folder / "control", model).control is not None
    after = load_weights(folder / "control/weights.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    weights = folder / "zoomldm/weights.safetensors"
    other = {name: (1 + name.startswith(PARTS["denoiser"])) * x for name, x in load_weights(weights).items()}
    run = tmp_path / "zoomldm"
    shutil.copytree(folder / "zoomldm", run)
    save_weights(run / "weights.safetensors", other, load_metadata(weights))
    bundle_demo.bundle(run)
    with pytest.raises(UserError, match="steers demo-"):
        ControlModel.load(folder / "control", ZoomLDM.load(folder / "zoomldm"))
