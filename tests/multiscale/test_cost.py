"""The cost of a sampling: the number of windows, memory and disk space against what is free."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.diffusion.guidance import Denoiser
from ldm.errors import UserError
from ldm.multiscale import cost, time_left
from ldm.multiscale.canvas import Corrected, State, Windows
from ldm.multiscale.conditions import Unconditional
from ldm.multiscale.cost import Cost, cost_of, size
from ldm.multiscale.joint import Joint
from ldm.multiscale.presets import CONSISTENT, PRESETS, SEAMS
from ldm.multiscale.time_left import Clock, duration, windows_a_step, windows_left
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
        patch.setattr(Joint, "offset", lambda joint, scale, step: (2, 2) if seam == "jitter" else (0, 0))
        for _ in joint.run():
            pass
        assert cost_of(joint_of(model, seam)).windows == taken["windows"]
    assert not windows_left(joint)


def test_windows_that_cost_more_at_the_end_are_a_kind_of_their_own(model: ZoomLDM) -> None:
    joint = joint_of(model)
    joint.settings = replace(CONSISTENT, steps=5)
    found = {kind.codec: count for kind, count in windows_left(joint).items() if kind.canvas == "20x"}
    assert found == {
        codec: sum(windows_a_step(joint, "20x", step) for step in steps)
        for codec, steps in (("preview", range(3)), ("jvp", range(3, 5)))
    }


@pytest.mark.parametrize("preset", ["default", "paper", "independent"])
def test_the_time_left_is_that_of_the_steps_that_are_left(
    model: ZoomLDM, monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    """A made clock: 2 s for a window of the coarse canvas, 3 s at the finest or, constrained, 8 s; the first 99 s more.

    Also where an interrupted sampling goes on.
    """
    now = [0.0]

    def denoiser(self: Joint, scale: str, places: Tensor) -> Denoiser:
        now[0] += len(places) * (2 if scale == "5x" else 3) + 99 * (not begun)
        begun.add(scale)
        return lambda z_t, t: 0 * z_t

    def held(windows: Windows, *_: object) -> Corrected:
        now[0] += 5 * len(windows.z_t)
        return Corrected(windows.predict(), torch.zeros(len(windows.z_t)))

    monkeypatch.setattr(time_left.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Joint, "denoiser", denoiser)
    moves = PRESETS[preset].seam == "jitter"
    monkeypatch.setattr(Joint, "offset", lambda joint, scale, step: (2, 2) if moves else (0, 0))
    monkeypatch.setattr("ldm.multiscale.canvas.correct", held)
    monkeypatch.setattr("ldm.multiscale.time_left.correct", held)
    settings = replace(PRESETS[preset], steps=6)
    states: dict[str, State] = {}
    for begins in (0, 3):
        joint = joint_of(model)
        joint.settings, joint.states = settings, states
        begun: set[str] = set()
        clock, told, at = Clock(joint), 0.0, 0.0
        for number, _ in enumerate(joint.run()):
            clock.tick()
            if number == 1:
                told, at = clock.left(), now[0]
            if number == 2:
                states = dict(joint.states) if begins == 0 else states
        assert told == pytest.approx(now[0] - at, rel=1e-6)


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
