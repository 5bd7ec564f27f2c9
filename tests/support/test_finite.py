"""NaN and infinities end in one line and a status, never in pixels, bags or tables."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from benchmarks.fixtures import toy
from ldm.checkpoint import load_weights
from ldm.cli import features as extract_features
from ldm.cli import joint as sample_joint
from ldm.cli import sample as sample_patches
from ldm.cli import superres
from ldm.data.h5 import SlideFile
from ldm.errors import UserError, cli
from ldm.images.contact_sheet import save_png
from ldm.images.tensors import to_uint8
from ldm.pipeline import ZoomLDM
from ldm.support.files import write_sidecar
from ldm.support.finite import NotFiniteError, checked, is_finite, not_finite

BAD = [torch.nan, torch.inf, -torch.inf]


def outcome(command: Callable[[Sequence[str]], object], *arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        cli(lambda: command([str(argument) for argument in arguments]))
    return int(ended.value.code or 0)


@pytest.mark.parametrize("value", BAD)
def test_pixels_are_made_of_numbers(value: float) -> None:
    x = torch.zeros(2, 3, 4, 4)
    assert to_uint8(x).shape == (2, 4, 4, 3)
    x[1, 2, 3, 3] = value
    with pytest.raises(NotFiniteError, match=r"image: 1 of 96 values are NaN or infinite.*--precision fp32"):
        to_uint8(x)


@pytest.mark.parametrize("value", BAD)
def test_latents_do_not_hide_behind_codes(value: float, world: Path) -> None:
    """The nearest code to NaN is some code; an infinite pixel, clamped, is white."""
    model = ZoomLDM.load(world / "zoomldm")
    z = torch.zeros(1, 3, 8, 16)
    z[0, 0, 7, 15] = value
    for decode in (model.decode, model.decode_sampled, lambda z: list(model.decode_canvas(z[0]))):
        with pytest.raises(NotFiniteError, match="1 of 384 values"):
            decode(z)
    with torch.no_grad():
        model.autoencoder.decoder.conv_out.bias[1] = value
    with pytest.raises(NotFiniteError, match="image decoded in fp32"):
        list(model.decode_canvas(torch.zeros(3, 8, 16)))


def test_sizes_without_values_are_not_asked() -> None:
    assert is_finite(torch.empty(2, device="meta"))
    assert is_finite(torch.tensor([1, 2]))
    assert checked(torch.ones(2, dtype=torch.bool), "x").all()
    names = {name: torch.tensor(torch.nan) for name in "abcde"} | {"good": torch.ones(1)}
    assert not_finite(names) == "a, b, c and 2 more"
    assert not_finite({"good": torch.ones(1)}) == ""


def broken_run(world: Path, folder: Path, name: str, value: float) -> Path:
    """A copy of the toy run whose weights hold one bad value, with the right checksum beside them."""
    run = shutil.copytree(world / "zoomldm", folder / "broken")
    weights = run / "weights.safetensors"
    tensors = load_weights(weights)
    tensors[name].view(-1)[0] = value
    save_file(tensors, weights)
    write_sidecar(weights)
    return run


def test_no_command_takes_weights_that_are_not_finite(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = broken_run(world, tmp_path, "first_stage_model.decoder.conv_out.bias", torch.nan)
    cpu = ("--accelerator", "cpu")
    commands: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (sample_patches.main, ("--from", world / "slide.h5", "--device", "cpu")),
        (sample_joint.main, ("--from", world / "slide.h5", *cpu)),
        (superres.main, (tmp_path / "x.png", "--device", "cpu")),
        (extract_features.main, (world, *cpu)),
    ]
    save_png(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
    for command, arguments in commands:
        assert outcome(command, *arguments, "--model", run, "--out", tmp_path / "out") == 2
        assert "decoder.conv_out.bias not finite; take weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize("command", [sample_patches.main, sample_joint.main])
def test_what_overflows_while_sampling_writes_nothing(
    command: Callable[..., object], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are finite, their products are not: as in fp16."""
    load = ZoomLDM.load.__func__  # type: ignore[attr-defined]

    def steep(cls: type[ZoomLDM], *arguments: object, **options: object) -> ZoomLDM:
        model = load(cls, *arguments, **options)
        for parameter in model.unet.parameters():
            parameter.data *= 1e12
        return model

    monkeypatch.setattr(ZoomLDM, "load", classmethod(steep))
    device = ("--device", "cpu") if command is sample_patches.main else ("--scales", "20x,10x", "--accelerator", "cpu")
    given = ("--model", world / "zoomldm", "--from", world / "slide.h5", "--steps", "2", "--out", tmp_path / "out")
    assert outcome(command, *given, *device) == 2
    assert not list((tmp_path / "out").rglob("*.png")) + list((tmp_path / "out").rglob("*.tiff"))


@pytest.mark.parametrize("name", ["scales/10x/latents", "embeddings/0"])
def test_a_slide_with_nan_is_named(name: str, tmp_path: Path) -> None:
    path = toy.slide(tmp_path / "slide.h5")
    with h5py.File(path, "r+") as file:
        file[name][0, 0, 0] = np.nan
    slide = SlideFile(path)
    with pytest.raises(UserError, match=rf"slide.h5: {name} has values that are not finite; prepare this slide again"):
        slide.latents("10x", [0]) if "latents" in name else slide.tokens(0, 0, 0, 2, 2)


class Refusing(Dataset):
    """Refuses what it is asked for."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> int:
        raise UserError("s.h5: latents are not finite: prepare this slide again")


def test_a_mistake_in_a_worker_is_told_in_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(lambda _: list(DataLoader(Refusing(), num_workers=1))) == 2
    assert capsys.readouterr().err == "error: s.h5: latents are not finite: prepare this slide again\n"


@pytest.mark.parametrize("words", ["", "after step 2 of 9; the same command continues"])
def test_ctrl_c_ends_any_command_in_a_line(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def pressed(_: object) -> None:
        raise KeyboardInterrupt(words)

    assert outcome(pressed) == 130
    assert capsys.readouterr().err == f"interrupted{words and '; '}{words}\n"
