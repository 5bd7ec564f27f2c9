"""Joint sampling on a toy model: what an image depends on, and what it does not."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.fixtures import toy
from ldm.data.h5 import SlideFile
from ldm.diffusion.samplers import ddim_timesteps, seeded_noise
from ldm.diffusion.schedule import add_noise
from ldm.diffusion.steps import ddim_steps
from ldm.errors import UserError
from ldm.evaluation.metrics.seams import seam_strength
from ldm.images.tensors import from_uint8, to_uint8
from ldm.multiscale.canvas import Codec, State, Windows, correct
from ldm.multiscale.conditions import TokenMap
from ldm.multiscale.constraint import Shrink
from ldm.multiscale.joint import REPAIR, Joint
from ldm.multiscale.presets import JACOBIANS, PRESETS, Rule, Settings
from ldm.multiscale.windows import ramp
from ldm.networks.autoencoder import Autoencoder
from ldm.pipeline import ZoomLDM
from ldm.support.bundled_models import BUNDLED
from ldm.support.processes import Processes
from tests.golden.parity import noise

FEW = {
    name: replace(preset, steps=4, rule=replace(preset.rule, inner=min(1, preset.rule.inner)))
    for name, preset in PRESETS.items()
}
DEFAULT = FEW["default"]
EXACT = replace(FEW["paper"], rule=replace(FEW["paper"].rule, codec="backprop", denoiser="backprop"))
"""without differences of 0.005, which magnify rounding 40000-fold"""
THREADED = replace(DEFAULT, rule=replace(DEFAULT.rule, codec="difference"))
"""without forward derivatives, which threads cannot take side by side"""


@pytest.fixture
def joint(model: ZoomLDM) -> Callable[..., Joint]:
    """Makes a `Joint`; `changes` are to its arguments."""

    def make(**changes: Any) -> Joint:
        conditions = TokenMap(model, noise(1, toy.EMBEDDING, 3, 3))
        usual: dict[str, Any] = {"model": model, "conditions": conditions, "height": 40, "width": 48}
        return Joint(**usual | {"scales": ["20x", "5x"], "settings": DEFAULT} | changes)

    return make


@pytest.fixture
def in_float64(monkeypatch: pytest.MonkeyPatch, model: ZoomLDM) -> Callable[..., Joint]:
    """Makes a `Joint` like `joint` whose arithmetic is in float64: the logic, without a processor's rounding."""
    networks = {part: deepcopy(getattr(model, part)).double() for part in ("unet", "summarizer", "autoencoder")}
    assert model.preview is not None
    preview = replace(model.preview, network=deepcopy(model.preview.network).double())
    exact = replace(model, **networks, preview=preview, alpha_bar=model.alpha_bar.double())
    monkeypatch.setattr("ldm.multiscale.windows.seeded_noise", lambda *key: seeded_noise(*key).double())

    def make(**changes: Any) -> Joint:
        usual: dict[str, Any] = {"model": exact, "conditions": TokenMap(exact, noise(1, toy.EMBEDDING, 3, 3).double())}
        return Joint(**usual | {"scales": ["20x", "5x"], "settings": DEFAULT} | changes)

    return make


def sampled(joint: Joint) -> Tensor:
    """The image (3, height, width)."""
    for _ in joint.run():
        pass
    return torch.cat(list(joint.bands()), dim=1)


@pytest.mark.parametrize("noise", [-0.1, float("nan"), float("inf")])
def test_a_noise_of_corrections_that_is_none_is_refused(noise: float) -> None:
    with pytest.raises(UserError, match=r"rule: noise .*; expected a standard deviation, 0 or more"):
        Rule(noise=noise)


def test_what_corrections_leave_is_told_as_noise_where_there_are_corrections(joint: Callable[..., Joint]) -> None:
    both = joint(settings=replace(DEFAULT, rule=replace(DEFAULT.rule, noise=0.1)))
    assert all(step.conditioning for step in both.canvas("20x").steps)
    assert not any(step.conditioning for step in both.canvas("5x").steps)
    free = joint(settings=replace(DEFAULT, rule=replace(DEFAULT.rule, inner=0, noise=0.1)))
    assert not any(step.conditioning for step in free.canvas("20x").steps)
    plain = joint(settings=replace(DEFAULT, rule=replace(DEFAULT.rule, noise=0.0)))
    assert sampled(joint(settings=both.settings)).ne(sampled(plain)).any()


def last(joint: Joint) -> Tensor:
    """The finest canvas, after the repair if there is one."""
    sampled(joint)
    return (joint.states.get(REPAIR) or joint.states[joint.scales[0]]).z_t


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_batch_size_changes_no_pixel(in_float64: Callable[..., Joint], batch_size: int) -> None:
    given = {"height": 40, "width": 48}
    expected = sampled(in_float64(**given, batch_size=16))
    torch.testing.assert_close(sampled(in_float64(**given, batch_size=batch_size)), expected, rtol=0, atol=1e-6)


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
        if scale == "20x" and self.calls_left == 0:
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
    saved = {scale: state._replace(z_0=state.z_t) for scale, state in again.states.items()}  # as a file holds them
    assert torch.equal(last(again), last(expected))
    assert torch.equal(last(joint(settings=FEW[name], states=saved)), last(expected))


def test_the_steps_after_the_share_that_is_constrained_are_free(joint: Callable[..., Joint]) -> None:
    half = joint(settings=replace(DEFAULT, rule=replace(DEFAULT.rule, until=0.5)))
    free = joint(settings=replace(DEFAULT, rule=Rule(inner=0)))
    errors = {scale: [state.error for canvas, state in half.run() if canvas == scale] for scale in half.scales[:1]}
    assert [error is None for error in errors["20x"]] == [False, False, True, True]
    assert {state.error for _, state in free.run()} == {None}


def together(make: Callable[[Processes], Joint], count: int) -> list[Tensor]:
    """The finest canvas of each of `count` processes that share windows, played by threads."""
    barrier = Barrier(count, timeout=20)
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


@pytest.mark.parametrize(
    ("settings", "seam"),
    [(THREADED, "jitter"), (THREADED, "none"), (THREADED, "overlap"), (EXACT, "repair"), (DEFAULT, "jitter")],
)
@pytest.mark.parametrize("width", [64, 76])  # windows that meet seldom, and that overlap
def test_processes_that_share_windows_make_the_same_image(
    in_float64: Callable[..., Joint], settings: Settings, seam: str, width: int
) -> None:
    given = {"settings": replace(settings, seam=seam), "width": width, "height": 64}
    expected = last(in_float64(**given))
    for found in together(lambda processes: in_float64(**given, processes=processes), count=3):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_a_fixed_image_stands_for_the_coarsest_canvas(joint: Callable[..., Joint]) -> None:
    given = noise(3, 3, 10, 12).clamp(-1, 1)
    held = joint(fixed=given)
    assert {canvas for canvas, _ in held.run()} == {"20x"}
    assert torch.equal(held.image("5x")[:, :10, :12], given)
    other = joint(fixed=-given)
    assert not torch.allclose(last(other), held.states["20x"].z_t, atol=1e-2)


def test_final_rounds_bring_the_pixels_to_the_coarser_image(joint: Callable[..., Joint]) -> None:
    gaps = []
    for rounds in (0, 8):
        one = joint(settings=replace(DEFAULT, rounds=rounds), fixed=noise(3, 3, 10, 12).clamp(-1, 1) / 4)
        shrunk = Shrink(4)(sampled(one)[None])[0]
        gaps.append(float((shrunk - one.image("5x")[:, :10, :12]).square().mean().sqrt()))
    assert gaps[1] < 0.2 * gaps[0]


def test_the_error_before_the_final_correction_is_that_of_the_image_without_it(joint: Callable[..., Joint]) -> None:
    fixed = noise(3, 3, 10, 12).clamp(-1, 1) / 4
    uncorrected, corrected = (joint(settings=replace(DEFAULT, rounds=rounds), fixed=fixed) for rounds in (0, 1))
    last(uncorrected)
    unclamped = torch.cat(list(uncorrected.model.decode_canvas(uncorrected.states["20x"].z_t)), dim=1)
    y = uncorrected.image("5x")[:, : unclamped.shape[1] // 4, : unclamped.shape[2] // 4]
    sampled(corrected)
    assert uncorrected.before is None
    assert corrected.before is not None
    assert corrected.before.rms == pytest.approx(float((Shrink(4)(unclamped[None])[0] - y).square().mean().sqrt()))


def test_canvases_are_guided_in_the_interval_alone(joint: Callable[..., Joint]) -> None:
    of = {
        (guidance, interval): last(
            joint(settings=replace(DEFAULT, guidance=guidance, fine_guidance=None, guidance_interval=interval))
        )
        for guidance, interval in ((1.0, None), (3.0, None), (3.0, (0.0, 1e-9)), (3.0, (0.0, 1e9)), (3.0, (0.3, 3.0)))
    }
    assert torch.equal(of[3.0, (0.0, 1e-9)], of[1.0, None])
    assert torch.equal(of[3.0, (0.0, 1e9)], of[3.0, None])
    assert not torch.allclose(of[3.0, (0.3, 3.0)], of[3.0, None], atol=1e-4)
    assert not torch.allclose(of[3.0, (0.3, 3.0)], of[1.0, None], atol=1e-4)


def test_windows_move_by_whole_pixels_of_the_coarser_canvas(
    joint: Callable[..., Joint], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = joint()
    for pixels, grain in ((4, 1), (8, 2), (16, 4)):
        monkeypatch.setattr(one.chain, "above", lambda scale, pixels=pixels: pixels)
        offsets = {offset for step in range(50) for offset in one.offset("20x", step)}
        assert offsets == set(range(0, one.chain.side, grain))
    assert joint(settings=replace(DEFAULT, seam="none")).offset("20x", 3) == (0, 0)


def test_windows_overlap_in_the_last_steps_and_fade_wherever_they_do(joint: Callable[..., Joint]) -> None:
    one = joint(height=128, width=160, settings=replace(DEFAULT, steps=4, blended=2))
    canvas, side = one.canvas("20x"), one.chain.side
    weight = ramp(side, canvas.fade)
    assert (weight[side // 2, side // 2], weight[0, 0]) == (1, (0.5 / canvas.fade) ** 2)
    for step, overlaps in enumerate((False, False, True, True)):
        places = canvas.windows(step, *one.chain.latents("20x"))
        inner = places[:, 0].unique().diff()[1:-1]  # the outermost are shifted inwards
        assert (inner == (side - canvas.fade if overlaps else side)).all()
    for seam in ("none", "overlap", "repair"):
        still = joint(settings=replace(DEFAULT, seam=seam)).canvas("20x")
        assert (still.fade, still.overlap_from) == (0, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": ["20x", "20x"]}, "scales: 20x, 20x; expected different scales"),
        ({"scales": []}, "scales: "),
        ({"scales": ["20x", "40x"]}, "40x is not on the histology ladder"),
        ({"height": 0}, "size: 48x0"),
    ],
)
def test_mistakes_are_told(joint: Callable[..., Joint], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        joint(**changes)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="seam: glue is unknown; it is one of none, jitter, overlap, repair"):
        Settings(seam="glue")
    with pytest.raises(UserError, match=r"guidance_interval: 3,0\.3"):
        Settings(guidance_interval=(3, 0.3))
    with pytest.raises(UserError, match=r"until: 0.5 in lock-step"):
        Settings(lockstep=True, rule=Rule(until=0.5))


def test_half_precision_takes_forward_derivatives(joint: Callable[..., Joint], model: ZoomLDM) -> None:
    rule = joint(model=replace(model, precision="bf16"), settings=FEW["paper"]).settings.rule
    assert (rule.codec, rule.denoiser) == ("jvp", "jvp")
    assert joint(settings=FEW["paper"]).settings.rule.denoiser == "difference"


@pytest.mark.parametrize(
    ("codec", "denoiser"),
    [*((codec, None) for codec in JACOBIANS), *(("difference", denoiser) for denoiser in JACOBIANS)],
)
@torch.no_grad()
def test_every_passage_through_trained_networks_comes_nearer(demo: ZoomLDM, codec: str, denoiser: str | None) -> None:
    """A real patch, noised, is brought to its own coarse pixels."""
    slide = SlideFile(BUNDLED["demo"].slide)
    step = ddim_steps(ddim_timesteps(10), demo.alpha_bar)[5]
    x = from_uint8(np.stack(slide.images("20x", range(2))))
    z_t = add_noise(demo.encode(x), noise(4, 2, 3, 32, 32), step.a_t.float())
    context = demo.context([slide.embedding("20x", row) for row in range(2)], "20x")
    codec_of_demo, shrink = Codec(partial(demo.decode, quantize=False), demo.encode), Shrink(4)
    errors = []
    for inner in (1, 2):
        rule = Rule(inner=inner, weight=0.1, codec=codec, zeta=0.1, denoiser=denoiser, normalise=True)
        windows = Windows(z_t, demo.denoiser(context, 2.0), step)
        errors.append(correct(windows, shrink(x), codec_of_demo, rule).error)
    assert (errors[1] < errors[0]).all()


def test_an_image_of_the_bundled_model_shrinks_to_its_coarse_canvas(demo: ZoomLDM) -> None:
    tokens = SlideFile(BUNDLED["demo"].slide).tokens(0, 8, 12, 4, 4)
    free = replace(PRESETS["default"], steps=6, rule=Rule(inner=0))
    given: dict[str, Any] = {"model": demo, "height": 128, "width": 128, "conditions": TokenMap(demo, tokens)}
    coarse: dict[str, State] = {}
    gaps = []
    for settings in (replace(PRESETS["default"], steps=6), free):
        one = Joint(**given, scales=["20x", "5x"], settings=settings, states=dict(coarse))
        shrunk = Shrink(4)(sampled(one)[None])[0]
        gaps.append(float((shrunk - one.image("5x")[:, :32, :32]).square().mean().sqrt()))
        coarse["5x"] = one.states["5x"]
    assert gaps[0] < 0.6 * gaps[1]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (72, 76)])
def test_windows_that_overlap_show_every_latent_to_several(
    joint: Callable[..., Joint], height: int, width: int
) -> None:
    one = joint(scales=["20x"], height=height, width=width, settings=FEW["interpolated"])
    seen: list[Tensor] = []
    sound = one.denoiser
    one.denoiser = lambda scale, places: seen.append(places) or sound(scale, places)  # type: ignore[assignment, func-returns-value]
    next(one.run())
    places = torch.cat(seen)
    counts = torch.zeros(one.chain.latents("20x"))
    for row, col in places.tolist():
        counts[row : row + one.chain.side, col : col + one.chain.side] += 1
    assert len(places.unique(dim=0)) == len(places)
    assert counts.min() == 1  # the corners
    middle = slice(one.chain.side - 1, 1 - one.chain.side)
    assert (counts[middle, middle] >= 16).all()


def test_under_even_embeddings_windows_that_overlap_leave_no_seams_where_tiles_do(demo: ZoomLDM) -> None:
    even = SlideFile(BUNDLED["demo"].slide).tokens(0, 12, 16, 1, 1).expand(-1, 2, 2)
    given: dict[str, Any] = {"model": demo, "height": 256, "width": 256, "conditions": TokenMap(demo, even)}
    quilt, whole = (
        Joint(**given, scales=["20x"], settings=replace(PRESETS[name], steps=4, guidance=1.0))
        for name in ("independent", "interpolated")
    )
    seams = [seam_strength(to_uint8(sampled(one)[None])[0], demo.tile_px) for one in (quilt, whole)]
    assert abs(seams[1] - 1) < 0.3 * (seams[0] - 1), seams


@pytest.mark.slow
def test_the_tile_batch_of_the_bundled_model_changes_no_pixel_by_more_than_a_level(demo: ZoomLDM) -> None:
    tokens = SlideFile(BUNDLED["demo"].slide).tokens(0, 12, 16, 2, 2)
    images = []
    for batch_size in (1, 4):
        joint = Joint(
            model=demo,
            scales=["20x", "5x"],
            height=256,
            width=256,
            conditions=TokenMap(demo, tokens),
            settings=replace(PRESETS["default"], steps=2),
            batch_size=batch_size,
        )
        images.append(to_uint8(sampled(joint)[None]).astype(int))
    difference = np.abs(images[0] - images[1])
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@torch.no_grad()
def test_rounding_that_moves_a_latent_to_another_code_does_not_show(demo: ZoomLDM) -> None:
    torch.manual_seed(0)
    autoencoder = Autoencoder(width=16, multipliers=(1, 1, 1), blocks=1, codes=512, attention=False).eval()
    codes = torch.nn.init.normal_(autoencoder.quantize.embedding.weight).detach()
    demo = deepcopy(demo)
    demo.autoencoder = autoencoder
    some = codes[:: len(codes) // 64][:64]
    distances = torch.cdist(some, codes)
    nearest = codes[distances.topk(2, largest=False).indices[:, 1]]
    border = ((some + nearest) / 2).T.reshape(1, 3, 8, 8)
    moved = border + 3e-6 * (nearest - some).sign().T.reshape(border.shape)
    published, smooth = ((d(border) - d(moved)).abs().max() * 127.5 for d in (demo.decode, demo.decode_sampled))
    assert smooth < 1
    assert published > 3
