"""Joint sampling on a toy model: what an image depends on, and what it does not."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm.conditions import TokenMap
from ldm.errors import UserError
from ldm.joint import REPAIR, Joint, Processes
from ldm.pipeline import ZoomLDM
from ldm.sampling.constraints import Shrink
from ldm.sampling.presets import PRESETS, Settings, at_precision
from tests import toy
from tests.golden.parity import noise

FEW = {name: replace(preset, steps=4, rule=replace(preset.rule, inner=1)) for name, preset in PRESETS.items()}
DEFAULT = FEW["default"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ZoomLDM:
    return ZoomLDM.load(toy.run_folder(tmp_path_factory.mktemp("runs") / "zoomldm", "zoomldm"))


@pytest.fixture
def joint(model: ZoomLDM) -> Callable[..., Joint]:
    """Makes a `Joint`; `changes` are to its arguments."""

    def make(**changes: Any) -> Joint:
        usual = {"scales": ["20x", "5x"], "height": 56, "width": 64, "settings": DEFAULT}
        conditions = TokenMap(model, noise(1, toy.EMBEDDING, 4, 4))
        return Joint(**{"model": model, "conditions": conditions} | usual | changes)

    return make


def sampled(joint: Joint) -> Tensor:
    """The image (3, height, width)."""
    for _ in joint.run():
        pass
    return torch.cat(list(joint.bands()), dim=1)


def last(joint: Joint) -> Tensor:
    """The finest canvas, after the repair if there is one."""
    sampled(joint)
    return (joint.states.get(REPAIR) or joint.states[joint.scales[0]]).z_t


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_changes_no_pixel(joint: Callable[..., Joint], batch_size: int) -> None:
    expected = sampled(joint(batch_size=16))
    torch.testing.assert_close(sampled(joint(batch_size=batch_size)), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (50, 70), (20, 100), (97, 1), (128, 36)])
@pytest.mark.parametrize("name", ["default", "paper"])
def test_every_size_comes_out_as_asked(joint: Callable[..., Joint], height: int, width: int, name: str) -> None:
    settings = replace(FEW[name], steps=1, seam="none" if name == "paper" else "jitter")
    image = sampled(joint(height=height, width=width, settings=settings))
    assert image.shape == (3, height, width)
    assert image.abs().max() <= 1


def test_a_chain_is_sampled_from_coarse_to_fine(joint: Callable[..., Joint]) -> None:
    chain = joint(scales=["5x", "20x", "10x"])
    assert chain.scales == ["20x", "10x", "5x"]
    visited = [(canvas, state.step) for canvas, state in chain.run()]
    assert visited == [(scale, step) for scale in ("5x", "10x", "20x") for step in (1, 2, 3, 4)]
    assert [chain.states[scale].z_t.isfinite().all() for scale in chain.scales] == [True] * 3
    assert chain.done == chain.steps == 12


def test_in_lock_step_all_canvases_go_together(joint: Callable[..., Joint]) -> None:
    chain = joint(scales=["20x", "10x", "5x"], settings=replace(FEW["paper"], seam="none"))
    for canvas, state in chain.run():
        assert canvas == "20x"
        assert [chain.states[scale].step for scale in chain.scales] == [state.step] * 3
        assert state.error is not None


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("taken", [2, 5])
def test_an_interrupted_run_goes_on_to_the_same_image(joint: Callable[..., Joint], name: str, taken: int) -> None:
    whole, interrupted = joint(settings=FEW[name]), joint(settings=FEW[name])
    expected = last(whole)
    for step, _ in enumerate(interrupted.run(), start=1):
        if step == taken:
            break
    resumed = joint(settings=FEW[name], states=dict(interrupted.states))
    assert torch.equal(last(resumed), expected)
    assert resumed.done == resumed.steps


@dataclass
class Failing:
    """Conditions of windows that fail once at the finest scale."""

    sound: TokenMap
    calls_left: int

    def context(self, scale: str, places: Tensor) -> Tensor:
        self.calls_left -= scale == "20x"
        if self.calls_left == 0:
            raise MemoryError
        return self.sound.context(scale, places)

    def guidance(self, asked: float) -> float:
        return asked


@pytest.mark.parametrize("name", FEW)
def test_a_step_that_failed_is_taken_again(joint: Callable[..., Joint], name: str) -> None:
    expected = joint(settings=FEW[name])
    again = joint(settings=FEW[name], conditions=Failing(expected.conditions, calls_left=3))  # type: ignore[arg-type]
    with pytest.raises(MemoryError):
        sampled(again)
    assert torch.equal(last(again), last(expected))


def together(make: Callable[[Processes], Joint], count: int) -> list[Tensor]:
    """The finest canvas of each of `count` processes that share windows, played by threads."""
    barrier = Barrier(count, timeout=60)
    shelf: dict[int, Tensor] = {}

    def play(rank: int) -> Tensor:
        def total(x: Tensor) -> Tensor:
            shelf[rank] = x
            barrier.wait()
            found = torch.stack([shelf[i] for i in range(count)]).sum(dim=0)
            barrier.wait()
            return found

        return last(make(Processes(lambda n: range(rank, n, count), total)))

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(play, range(count)))


@pytest.mark.parametrize(("name", "seam"), [("default", "jitter"), ("default", "none"), ("paper", "repair")])
@pytest.mark.parametrize("width", [64, 76])  # windows that meet seldom, and that overlap
def test_processes_that_share_windows_make_the_same_image(
    joint: Callable[..., Joint], name: str, seam: str, width: int
) -> None:
    settings = at_precision(replace(FEW[name], seam=seam), "bf16")  # differences of 0.005 magnify rounding 40000-fold
    given = {"settings": settings, "width": width, "height": 64}
    expected = last(joint(**given))
    for found in together(lambda processes: joint(**given, processes=processes), count=3):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_fixed_image_stands_for_the_coarsest_canvas(joint: Callable[..., Joint]) -> None:
    given = noise(3, 3, 14, 16).clamp(-1, 1)
    held = joint(fixed=given)
    assert {canvas for canvas, _ in held.run()} == {"20x"}
    assert torch.equal(held.image("5x")[:, :14, :16], given)
    other = joint(fixed=-given)
    assert not torch.allclose(last(other), held.states["20x"].z_t, atol=1e-2)


def test_final_rounds_bring_the_pixels_to_the_coarser_image(joint: Callable[..., Joint]) -> None:
    gaps = []
    for rounds in (0, 8):
        one = joint(settings=replace(DEFAULT, rounds=rounds), fixed=noise(3, 3, 14, 16).clamp(-1, 1) / 4)
        shrunk = Shrink(4)(sampled(one)[None])[0]
        gaps.append(float((shrunk - one.image("5x")[:, :14, :16]).square().mean().sqrt()))
    assert gaps[1] < 0.2 * gaps[0]


def test_windows_move_by_whole_pixels_of_the_coarser_canvas(
    joint: Callable[..., Joint], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = joint()
    for pixels, grain in ((4, 1), (8, 2), (16, 4)):
        monkeypatch.setattr(one, "_above", lambda scale, pixels=pixels: pixels)
        offsets = {offset for step in range(50) for offset in one._offset("20x", step)}
        assert offsets == set(range(0, one.side, grain))
    assert joint(settings=replace(DEFAULT, seam="none"))._offset("20x", 3) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": ["20x", "20x"]}, "scales: 20x, 20x; expected different scales"),
        ({"scales": []}, "scales: "),
        ({"scales": ["20x", "40x"]}, "40x is not on the histology ladder"),
        ({"height": 0}, "size: 64x0"),
    ],
)
def test_mistakes_are_told(joint: Callable[..., Joint], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        joint(**changes)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="seam: glue is unknown; it is one of none, jitter, repair"):
        Settings(seam="glue")
    with pytest.raises(UserError, match=r"until: 0.7 in lock-step"):
        replace(PRESETS["default"], lockstep=True)


def test_half_precision_takes_forward_derivatives(joint: Callable[..., Joint], model: ZoomLDM) -> None:
    rule = joint(model=replace(model, precision="bf16"), settings=FEW["paper"]).settings.rule
    assert (rule.codec, rule.denoiser) == ("jvp", "jvp")
    assert joint(settings=FEW["paper"]).settings.rule.denoiser == "difference"
