"""benchmarks.gpu, proven without a card: on the CPU at tiny size, its sampling on a pretended CUDA device."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import against_cpu, gpu_tasks
from ldm.errors import UserError
from ldm.evaluation.experiments.operations import costs
from tests.pretend import pretended

TINY = gpu.SIZES["tiny"]


def test_without_a_card_it_says_so_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device is there"):
        gpu.main(["--out", str(tmp_path / "gpu.md")])
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_tiny_run_on_the_cpu_measures_every_task(tmp_path: Path) -> None:
    gpu.main(["--device", "cpu", "--size", "tiny", "--precision", "fp32", "--out", str(tmp_path / "gpu.md")])
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in lines
        if line.startswith(("| p", "| j", "| s", "| t"))
    ]
    measured = [row for row in rows if len(row) == 6]
    assert [row[0].partition(",")[0] for row in measured] == [*gpu.TASKS, "training"]
    for row in measured:
        assert all(float(cell.rstrip("%")) >= 0 for cell in row[1:])
        assert float(row[4]) > 0
    checks = [row for row in rows if len(row) == 4]
    assert [row[:3] for row in checks] == [[task, "0", "0"] for task in gpu.TASKS]  # the CPU against itself


def test_a_device_that_computes_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = iter([torch.zeros(4, 4, 3).byte().numpy(), torch.full((4, 4, 3), 9).byte().numpy()])
    monkeypatch.setattr(against_cpu.ZoomLDM, "load", lambda *arguments, **options: None)
    monkeypatch.setattr(against_cpu, "check_pictures", lambda *arguments: {"patches": next(pictures)})
    with pytest.raises(UserError, match=r"differ from the CPU's by 9\.0 levels"):
        against_cpu.against_cpu(torch.device("meta"), TINY)


@pytest.mark.parametrize("name", gpu.TASKS)
def test_its_sampling_makes_every_tensor_on_the_card(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for function, value in (("synchronize", None), ("reset_peak_memory_stats", None), ("max_memory_allocated", 7)):
        monkeypatch.setattr(torch.cuda, function, lambda *arguments, value=value: value)
    model = gpu.random_model(TINY, "cpu", "fp32")
    each = costs(model.unet, model.autoencoder, TINY.tile_px, TINY.context_dim)
    with pretended("cuda") as device:
        row = gpu.sampled(name, model.to(device), TINY, each)
    assert row.memory == 7
    assert row.pflop > 0


def test_a_training_step_costs_about_three_evaluations() -> None:
    model = gpu.random_model(TINY, "cpu", "fp32")
    side = TINY.tile_px // model.autoencoder.downsample
    each = costs(model.unet, model.autoencoder, TINY.tile_px, TINY.context_dim)
    ratio = gpu_tasks.training_gflop(model.unet, side, TINY.context_dim) / each.unet.evaluations
    assert 2.7 < ratio < 3.1
