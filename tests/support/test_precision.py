"""Precision "auto": native precision of a device; a warning for emulated ones."""

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm.optim.muon
import torch
from omegaconf import OmegaConf

from ldm.errors import UserError
from ldm.pipeline import ZoomLDM
from ldm.support import precision
from ldm.training.muon import Muon

NATIVE = precision.native  # the suite's own fixture replaces it


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that sets what this CPU can do: PyTorch's capability and the processor's instructions."""
    monkeypatch.setattr(precision, "native", NATIVE)

    def can(capability: str, **instructions: bool) -> None:
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)

    return can


@pytest.mark.parametrize(
    ("capability", "instructions", "expected"),
    [
        ("AVX2", {}, "fp32"),
        ("AVX2", {"avx512_bf16": True}, "fp32"),  # PyTorch is held below what the processor has
        ("DEFAULT", {}, "fp32"),
        ("AVX512", {}, "fp32"),
        ("AVX512", {"avx512_bf16": True}, "fp32"),  # native, and measured to be slower
        ("AVX512", {"amx_bf16": True}, "bf16"),
    ],
)
def test_auto_is_bf16_only_where_the_cpu_has_matrix_units_for_it(
    device: Any, capability: str, instructions: dict[str, bool], expected: str
) -> None:
    device(capability, **instructions)
    assert precision.choose("auto", "cpu") == expected
    assert precision.choose_training("auto", "cpu") == precision.TRAINING[expected]


@pytest.mark.parametrize(("capable", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_on_cuda_goes_by_the_card(
    device: Any, monkeypatch: pytest.MonkeyPatch, capable: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: capable)
    assert precision.choose("auto", "cuda:1") == expected


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_what_is_emulated_is_allowed_and_said_once(device: Any, asked: str) -> None:
    device("AVX2")
    with pytest.warns(UserWarning, match="emulated on this cpu, up to 50 times slower than fp32") as said:
        assert precision.choose(asked, torch.device("cpu")) == asked
    assert len(said) == 1
    with pytest.warns(UserWarning, match="emulated"):
        precision.choose_training(f"{asked.removeprefix('fp')}-mixed", "cpu")


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(UserError, match="fp8 is unknown; it is one of auto, fp32, bf16, fp16"):
        ZoomLDM.load("demo", precision="fp8")


def test_a_model_says_what_auto_became(demo: ZoomLDM) -> None:
    assert demo.precision == "fp32"


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", torch.float32), ("AVX512", torch.bfloat16)])
def test_muon_orthogonalises_in_a_native_type(
    device: Any, monkeypatch: pytest.MonkeyPatch, capability: str, dtype: torch.dtype
) -> None:
    device(capability, amx_bf16=True)
    used = []
    theirs = timm.optim.muon.zeropower_via_newtonschulz

    def seen(*arguments: Any, **options: Any) -> torch.Tensor:
        used.append(options["dtype"])
        return theirs(*arguments, **options)

    monkeypatch.setattr(timm.optim.muon, "zeropower_via_newtonschulz", seen)
    weight = torch.nn.Parameter(torch.eye(4, 8))
    weight.grad = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    assert used == [dtype], "timm's Muon no longer calls zeropower_via_newtonschulz: fix ldm/training/muon.py"
    assert timm.optim.muon.zeropower_via_newtonschulz is seen
    update = (torch.eye(4, 8) - weight) / 0.1
    assert torch.linalg.matrix_rank(update) == 4


@pytest.mark.parametrize("options", [{"nesterov": True}, {"nesterov": False}, {"conv_mode": "batched"}], ids=str)
def test_muon_steps_as_timm_s_does_one_matrix_at_a_time(device: Any, options: dict[str, Any]) -> None:
    device("AVX2")
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 8, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3), (16, 8), (8, 16), (16, 8), (8,), (3, 8, 3, 3), (2, 2)]
    weights = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]

    def trained(kind: Any) -> list[torch.Tensor]:
        parameters = [torch.nn.Parameter(weight.clone()) for weight in weights]
        optimizer = kind(parameters, lr=0.1, weight_decay=0.1, adjust_lr_fn="original", ns_steps=5, **options)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    theirs = partial(timm.optim.muon.zeropower_via_newtonschulz, dtype=torch.float32)
    found = trained(Muon)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timm.optim.muon, "zeropower_via_newtonschulz", theirs)
        torch.testing.assert_close(found, trained(timm.optim.muon.Muon), rtol=0, atol=1e-5)


@pytest.mark.parametrize("path", sorted(Path("configs").rglob("*.yaml")), ids=str)
def test_no_config_asks_for_a_precision_that_a_laptop_emulates(path: Path) -> None:
    assert OmegaConf.select(OmegaConf.load(path), "training.precision") in (None, "auto", "32-true")


@pytest.mark.parametrize("asked", ["bf16", "fp16"])
def test_a_native_type_that_is_slower_all_the_same_is_said(
    device: Any, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    device("AVX512", avx512_bf16=True, avx512_fp16=True)
    seconds = {"fp32": 2.0, asked: 3.0}
    monkeypatch.setattr(precision, "_seconds", lambda name: seconds[name])
    precision.slowdown.cache_clear()
    with pytest.warns(UserWarning, match=f"{asked} took 1.5 times as long as fp32 in a short measurement on this cpu"):
        assert precision.choose(asked, "cpu") == asked
    seconds[asked] = 1.0
    precision.slowdown.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert precision.choose(asked, "cpu") == asked
        seconds[asked] = 99.0
        precision.slowdown.cache_clear()
        assert precision.choose("auto", "cpu") == "fp32"  # it is said for what was asked for
        assert precision.choose("fp32", "cpu") == "fp32"
        assert precision.choose("fp16", "cuda") == "fp16"
    precision.slowdown.cache_clear()


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_the_measurement_is_of_the_cpu_where_a_dry_run_makes_tensors_without_memory(asked: str) -> None:
    with torch.device("meta"):
        assert precision._seconds(asked) > 0


def test_the_measurement_leaves_random_numbers_as_they_were() -> None:
    before = torch.get_rng_state()
    assert precision._seconds("fp32") > 0
    assert torch.equal(torch.get_rng_state(), before)
