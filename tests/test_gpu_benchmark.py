"""benchmarks.gpu, proven without a card: on the CPU at tiny size, its sampling on a pretended CUDA device."""

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import against_cpu, training_rows
from benchmarks.gpu.meter import DENSE_BF16, HEAD, GpuRow, Peaks, stated_peak
from benchmarks.gpu.profile import attentions, write_profile
from ldm.errors import UserError
from ldm.evaluation.experiments.operations import costs
from tests.pretend import pretended

TINY = gpu.SIZES["tiny"]
ON_CPU = ["--device", "cpu", "--size", "tiny", "--precision", "fp32"]


@pytest.fixture(scope="module")
def bench() -> gpu.Bench:
    model = gpu.random_model(TINY, "cpu", "fp32")
    return gpu.Bench(model, TINY, costs(model.unet, model.autoencoder, TINY.tile_px, TINY.context_dim))


def rows_of(path: Path) -> list[list[str]]:
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def test_without_a_card_it_says_so_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device is there"):
        gpu.main(["--out", str(tmp_path / "gpu.md")])
    assert not list(tmp_path.iterdir())


def test_an_unknown_row_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main([*ON_CPU, "--rows", "patch"])
    assert ended.value.code == 2
    assert "training-64" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tiny_run_on_the_cpu_measures_every_row(tmp_path: Path) -> None:
    names = [name for name in gpu.ROWS if not name.endswith("compiled")]
    gpu.main([*ON_CPU, "--limit", "3600", "--out", str(tmp_path / "gpu.md"), "--rows", *names, gpu.CHECK])
    rows = rows_of(tmp_path / "gpu.md")
    measured = [row for row in rows if len(row) == len(HEAD)][2:]
    assert len(measured) == len(names)
    for row in measured:
        assert all(float(cell.rstrip("%")) >= 0 for cell in row[1:])
        assert float(row[5]) > 0  # operations
    checks = [row for row in rows if len(row) == 4][2:]
    tasks = ["patches", "joint sampling", "super-resolution"]
    assert [row[:3] for row in checks] == [[task, "0", "0"] for task in tasks]  # the CPU against itself
    phases = [line for line in (tmp_path / "gpu.md").read_text().splitlines() if "by phase" in line]
    assert len(phases) == 3


def made_row(name: str) -> Any:
    return lambda bench: GpuRow(name, 8, 2.0, 5.0, 2**30, 0.5, [f"{name}: a note."])


def test_a_row_that_fails_says_so_and_the_others_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bench: gpu.Bench
) -> None:
    def out_of_memory(bench: gpu.Bench) -> GpuRow:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate | 3 GiB")

    peaks = Peaks(measured=0.5, stated=1.0)
    monkeypatch.setattr(gpu, "opened", lambda *given: (bench, peaks, "A card."))
    rows = {"unet": made_row("U-Net"), "decode": out_of_memory, "encode": made_row("encoding")}
    monkeypatch.setattr(gpu, "ROWS", rows)
    with pytest.raises(UserError, match="decode: not measured"):
        gpu.main([*ON_CPU, "--out", str(tmp_path / "gpu.md"), "--rows", *rows])
    first, failed, last = (row for row in rows_of(tmp_path / "gpu.md")[2:])
    assert first == ["U-Net", "4", "2", "5", "1.0", "0.5", "0.5", "25%", "50%"]
    assert failed[0] == "decode: failed: OutOfMemoryError: CUDA out of memory. Tried to allocate / 3 GiB"
    assert last[0] == "encoding"
    printed = capsys.readouterr().out
    assert printed.index("| U-Net |") < printed.index("decode: failed") < printed.index("| encoding |")
    assert "- U-Net: a note." in (tmp_path / "gpu.md").read_text()


def test_no_row_begins_after_the_limit(monkeypatch: pytest.MonkeyPatch, bench: gpu.Bench) -> None:
    report = gpu.GpuTable("", "", Peaks(1, None), None)
    monkeypatch.setattr(gpu, "ROWS", {"unet": made_row("U-Net"), "decode": made_row("decoding")})
    clock = iter([0.0, 10.0, 11.0])
    monkeypatch.setattr(gpu.time, "monotonic", lambda: next(clock))
    assert gpu.measure(bench, report, ["unet", "decode"], until=5) == []
    assert [row[0] for row in report.rows] == ["U-Net", "decode: not run, the time of --limit was over"]


def test_the_floor_is_that_of_the_card_s_data_sheet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    card = torch.device("cuda")
    assert stated_peak(card, "bf16") == DENSE_BF16["H100"] / 1000
    assert stated_peak(card, "fp32") is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 PCIe")
    assert stated_peak(card, "bf16") == DENSE_BF16["H100 PCIe"] / 1000


def test_a_device_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = iter([torch.zeros(4, 4, 3).byte().numpy(), torch.full((4, 4, 3), 9).byte().numpy()])
    monkeypatch.setattr(against_cpu.ZoomLDM, "load", lambda *arguments, **options: None)
    monkeypatch.setattr(against_cpu, "check_pictures", lambda *arguments: {"patches": next(pictures)})
    with pytest.raises(UserError, match=r"differ from the CPU's by 9\.0 levels"):
        against_cpu.against_cpu(torch.device("meta"), TINY)


@pytest.mark.parametrize("name", ["patches", "joint-1024", "superres", "unet", "decode", "encode"])
def test_its_sampling_makes_every_tensor_on_the_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function, value in (("synchronize", None), ("reset_peak_memory_stats", None), ("max_memory_allocated", 7)):
        monkeypatch.setattr(torch.cuda, function, lambda *arguments, value=value: value)
    model = gpu.random_model(TINY, "cpu", "fp32")
    each = costs(model.unet, model.autoencoder, TINY.tile_px, TINY.context_dim)
    with pretended("cuda") as device:
        row = gpu.ROWS[name](gpu.Bench(model.to(device), TINY, each))
    assert row.memory == 7
    assert row.pflop > 0


def test_a_training_step_costs_about_three_evaluations(bench: gpu.Bench) -> None:
    side = TINY.tile_px // bench.model.downsample
    ratio = training_rows.training_gflop(bench.model.unet, side, TINY.context_dim) / bench.costs.unet.evaluations
    assert 2.7 < ratio < 3.1


def test_training_leaves_the_networks_of_the_other_rows_as_they_are(bench: gpu.Bench) -> None:
    before = [weight.clone() for weight in bench.model.unet.parameters()]
    row = gpu.training(bench, 2)
    assert all(torch.equal(weight, old) for weight, old in zip(bench.model.unet.parameters(), before, strict=True))
    assert not any(weight.requires_grad for weight in bench.model.unet.parameters())
    assert all(f"{phase} " in row.notes[0] for phase in training_rows.PHASES)


def test_the_profile_tells_operations_and_attention(tmp_path: Path, bench: gpu.Bench) -> None:
    paths = write_profile(tmp_path, bench)
    texts = {path.name: path.read_text() for path in paths}
    assert "aten::" in texts["evaluation.txt"]
    assert "_backward" in texts["training_step.txt"]
    for width, tokens in attentions(bench):
        assert f"head width {width}, {tokens} queries, {tokens} keys" in texts["attention.txt"]
    assert "as chosen" in texts["attention.txt"]
    assert "failed" not in texts["evaluation.txt"] + texts["training_step.txt"]
