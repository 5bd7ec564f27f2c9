"""Weights files: atomic, safe, strict, and every published form."""

import argparse
import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from benchmarks.fixtures.fill import fill_
from benchmarks.robustness.hostile_files import MARK, Payload
from ldm import checkpoint
from ldm.checkpoint import PARTS, SCHEDULE_BUFFERS, join, load_strict, load_weights, save_weights, split
from ldm.errors import UserError
from ldm.networks.autoencoder import Autoencoder
from ldm.networks.summarizer import Summarizer
from ldm.networks.unet import UNet
from ldm.support.finite import is_finite
from tests.golden.parity import published_names

TENSORS = {
    "a.weight": torch.arange(6.0).reshape(2, 3),
    "b": torch.tensor(7, dtype=torch.int64),
    "c": torch.ones(3, 2).T,
}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def published(file: str, device: str = "meta") -> dict[str, Tensor]:
    """Tensors with the names and shapes of a published file."""
    return {name: torch.zeros(shape, device=device) for name, shape in published_names(file).items()}


def test_saved_weights_come_back_with_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "weights.safetensors"
    digest = save_weights(path, TENSORS, {"system": "test"})
    assert same(load_weights(path), TENSORS)
    assert path.with_name("weights.safetensors.sha256").read_text() == f"{digest}  weights.safetensors\n"
    several = {name: name for name in "abcdef"}
    assert len({save_weights(path, TENSORS, several) for _ in range(10)}) == 1  # safetensors gives no order to these
    assert save_weights(path, TENSORS, {"system": "test"}) == digest
    assert sorted(file.name for file in path.parent.iterdir()) == ["weights.safetensors", "weights.safetensors.sha256"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(path, TENSORS)

    def full_disk(content: Any, partial: Path, metadata: Any) -> None:
        partial.write_bytes(b"some of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(UserError, match=r"weights.safetensors: the disk is full: it needs 56 bytes, "):
        save_weights(path, {"a": torch.zeros(14)})
    assert same(load_weights(path), TENSORS)
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    [
        TENSORS,
        {"state_dict": TENSORS, "epoch": 3},
        {"model": {}, "ema": TENSORS, "opt": {}, "args": argparse.Namespace(a=1)},
    ],
    ids=["flat", "lightning", "cdm"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_of_every_form_are_read(content: Any, zipped: bool, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.ckpt", _use_new_zipfile_serialization=zipped)
    assert same(load_weights(tmp_path / "weights.ckpt"), TENSORS)


@pytest.mark.parametrize("wrap", [lambda bad: bad, lambda bad: {"state_dict": TENSORS, "callbacks": bad}])
def test_a_hostile_pickle_does_not_run(wrap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(wrap(Payload()), tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match="could run code, so it was not read") as refused:
        load_weights(tmp_path / "weights.ckpt")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / MARK).exists()


def test_damaged_torch_files_are_told_in_one_line(tmp_path: Path) -> None:
    path, generator = tmp_path / "weights.ckpt", random.Random(0)
    torch.save(TENSORS, path)
    whole = path.read_bytes()
    for _ in range(50):
        path.write_bytes(whole[: generator.randrange(len(whole))])
        with pytest.raises(UserError) as refused:
            load_weights(path)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["weights.ckpt", "weights.safetensors"])
def test_what_is_no_weights_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        load_weights(tmp_path / name)
    (tmp_path / name).write_text("hello, I am text")
    with pytest.raises(UserError, match=str(tmp_path / name)):
        load_weights(tmp_path / name)


def test_a_dict_of_other_things_is_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "a": torch.zeros(1)}, tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match="holds no dict of tensors"):
        load_weights(tmp_path / "weights.ckpt")


@pytest.mark.parametrize(("file", "scales"), [("brca", 8), ("naip", 4)])
@pytest.mark.parametrize("averaged", [True, False])
def test_the_published_file_fits_the_default_networks(file: str, scales: int, averaged: bool) -> None:
    tensors = published(file)
    assert len(tensors) == 1750
    if not averaged:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("model_ema.")}
    with torch.device("meta"):
        networks = {"denoiser": UNet(), "summarizer": Summarizer(scales=scales), "autoencoder": Autoencoder()}
    parts = split(tensors)
    assert parts.keys() == networks.keys()
    for part, network in networks.items():
        load_strict(network, parts[part], part)


def test_the_averaged_denoiser_is_taken_unless_told_otherwise() -> None:
    tensors = published("small", "cpu")
    fill_(tensors)  # by name: the copies differ from the raw weights
    raw = {name.removeprefix(PARTS["denoiser"]): v for name, v in tensors.items() if name.startswith(PARTS["denoiser"])}
    found = split(tensors)["denoiser"]
    assert same(split(tensors, ema=False)["denoiser"], raw)
    assert list(found) == list(raw)
    assert torch.equal(found["out.2.weight"], tensors["model_ema.diffusion_modelout2weight"])
    assert not any(torch.equal(found[name], raw[name]) for name in raw)


def test_averages_that_miss_a_tensor_are_refused() -> None:
    tensors = published("small")
    del tensors["model_ema.diffusion_modelout2weight"]
    tensors["model_ema.diffusion_modelnew"] = torch.zeros(1)
    with pytest.raises(
        UserError, match=r"missing: model_ema.diffusion_modelout2weight; unexpected: model_ema.diff.*new$"
    ):
        split(tensors)
    assert "denoiser" in split(tensors, ema=False)


def test_join_undoes_split() -> None:
    parts = split(published("small"), ema=False)
    kept = [
        name for name in published_names("small") if name not in SCHEDULE_BUFFERS and not name.startswith("model_ema.")
    ]
    assert sorted(join(parts)) == sorted(kept)
    assert {part: list(state) for part, state in split(join(parts)).items()} == {
        part: list(s) for part, s in parts.items()
    }


def test_compvis_vq_f4_is_an_autoencoder() -> None:
    """Bare names, and the discriminator and perceptual network of its training."""
    with torch.device("meta"):
        network = Autoencoder()
    tensors = dict(network.state_dict()) | {"loss.discriminator.main.0.weight": torch.zeros(1)}
    parts = split(tensors)
    assert list(parts) == ["autoencoder"]
    load_strict(network, parts["autoencoder"], "autoencoder")


def test_the_imagenet_unet_starts_the_denoiser() -> None:
    """LDM-4 on ImageNet: the same names, with a table of classes in place of the Summarizer."""
    tensors = {name: v for name, v in published("brca").items() if not name.startswith(PARTS["summarizer"])}
    tensors["cond_stage_model.embedding.weight"] = torch.zeros(1001, 512, device="meta")
    with torch.device("meta"):
        load_strict(UNet(), split(tensors)["denoiser"], "denoiser")


def test_unknown_tensors_are_named() -> None:
    with pytest.raises(UserError, match=r"optimizer.step, scaler belong to no part; names start with model\.diff"):
        split({"optimizer.step": torch.zeros(1), "scaler": torch.zeros(1), "betas": torch.zeros(1)})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_only_floats_become_weights(dtype: torch.dtype) -> None:
    """Quantised weights have the right names and shapes, and mean something else."""
    network = nn.BatchNorm2d(2)
    state = dict(network.state_dict())
    for fits in (torch.float64, torch.float16):
        load_strict(network, state | {"weight": torch.ones(2, dtype=fits)}, "toy")
    kind = str(dtype).removeprefix("torch.")
    assert is_finite(torch.ones(2, dtype=dtype))
    with pytest.raises(UserError, match=f"differ: wrong kind: weight is {kind}, expected float32$"):
        load_strict(network, state | {"weight": torch.ones(2, dtype=dtype)}, "toy")
    with pytest.raises(UserError, match="wrong kind: num_batches_tracked is float32, expected int64"):
        load_strict(network, state | {"num_batches_tracked": torch.ones(())}, "toy")


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("file", ["weights.safetensors", "weights.ckpt"])
def test_one_value_that_is_not_finite_is_refused_wherever_it_came_from(value: float, file: str, tmp_path: Path) -> None:
    broken = TENSORS | {"c": torch.tensor([1.0, value]).half()}
    path = tmp_path / file
    if path.suffix == ".ckpt":
        torch.save({"state_dict": broken}, path)
    else:
        save_file(broken, path)
    with pytest.raises(UserError, match=f"{file}: c not finite; take weights of an earlier step"):
        load_weights(path)
    with pytest.raises(UserError, match="new was not written: c not finite"):
        save_weights(tmp_path / "new", broken)
    assert not (tmp_path / "new").exists()


def test_loading_names_every_difference_and_changes_nothing() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = json.dumps({name: value.tolist() for name, value in network.state_dict().items()})
    state = {
        "0.weight": torch.zeros(3, 2),
        "1.weight": torch.zeros(1, 4),
        "1.bias": torch.zeros(1),
        "extra": torch.zeros(1),
    }
    with pytest.raises(UserError) as refused:
        load_strict(network, state, "toy")
    assert str(refused.value) == (
        "toy: weights and config differ: missing: 0.bias; unexpected: extra; "
        "wrong shape: 1.weight is (1, 4), expected (1, 3)"
    )
    assert json.dumps({name: value.tolist() for name, value in network.state_dict().items()}) == before
