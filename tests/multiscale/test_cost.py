"""The cost of a sampling: windows as many as are denoised, memory and disk checked against what is free."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.errors import UserError
from ldm.multiscale import cost
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.cost import Cost, cost_of, duration, size, window_seconds
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import PRESETS, SEAMS
from ldm.pipeline import ZoomLDM


def joint_of(model: ZoomLDM, seam: str = "jitter", height: int = 96, width: int = 160) -> Joint:
    settings = replace(PRESETS["default"], steps=2, seam=seam)
    scales, conditions = ["20x", "5x"], Unconditional(model)
    return Joint(model=model, scales=scales, height=height, width=width, conditions=conditions, settings=settings)


@pytest.mark.parametrize("seam", SEAMS)
def test_windows_are_counted_as_they_are_denoised(model: ZoomLDM, monkeypatch: pytest.MonkeyPatch, seam: str) -> None:
    joint, taken = joint_of(model, seam), Counter[str]()

    def denoiser(self: Joint, scale: str, places: Tensor) -> Denoiser:
        taken["windows"] += len(places)
        return lambda z_t, t: 0 * z_t

    with monkeypatch.context() as patch:
        patch.setattr(Joint, "denoiser", denoiser)
        patch.setattr(Joint, "_offset", lambda joint, scale, step: (2, 2) if seam == "jitter" else (0, 0))
        for _ in joint.run():
            pass
    assert cost_of(joint).windows == taken["windows"]
    assert window_seconds(joint) > 0


def test_memory_and_disk_grow_with_the_image(model: ZoomLDM) -> None:
    small, large = (cost_of(joint_of(model, height=side, width=side)) for side in (1024, 4096))
    for key in ("memory", "disk", "windows"):
        assert getattr(large, key) == pytest.approx(16 * getattr(small, key), rel=0.1)
    assert large.memory > 92 * 1024**2  # measured for the finest canvas alone


def test_what_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "available_memory", lambda: 10**9)
    Cost(10**9, 0, 1).check("--size: 5", tmp_path / "new/folder", torch.device("cpu"))
    for needs, kind in ((Cost(2 * 10**9, 0, 1), "memory"), (Cost(0, 10**18, 1), "disk")):
        with pytest.raises(UserError, match=rf"--size: 5: needs about [\d,.]+ .B of {kind}, .* are free .*; choose"):
            needs.check("--size: 5", tmp_path / "new/folder", torch.device("cpu"))
    assert not (tmp_path / "new").exists()


def test_durations_and_sizes_are_told_in_their_own_units() -> None:
    told = {0.1: "1 s", 100: "100 s", 1000: "17 min", 10_000: "3 h", 10**6: "12 days"}
    assert {seconds: duration(seconds) for seconds in told} == told
    assert [size(count) for count in (10, 2 * 10**7, 3.21e9, 4e12)] == ["1 MB", "20 MB", "3.2 GB", "4,000 GB"]
