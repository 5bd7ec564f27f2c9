"""Joint sampling and the seam repair are the published ones."""

import torch
from einops import rearrange
from torch import Tensor

from ldm.diffusion.guidance import Denoiser, guided
from ldm.diffusion.schedule import add_noise, scaled_linear_alpha_bar
from ldm.diffusion.steps import released_steps
from ldm.multiscale.canvas import Canvas, Codec, Constraint, State, denoise_canvas, denoise_step
from ldm.multiscale.presets import Rule
from ldm.multiscale.token_windows import window_embeddings
from ldm.networks.unet import UNet
from ldm.support.processes import Processes
from tests.golden.parity import error, golden, noise
from tests.golden.small import small_autoencoder, small_summarizer, small_unet

ALPHA_BAR = scaled_linear_alpha_bar()
SIDE, GUIDANCE = 64, 3.0
PUBLISHED = golden("joint")


def under(unet: UNet, context: Tensor) -> Denoiser:
    nothing = torch.zeros_like(context)
    return guided(lambda z, t: unet(z, t, context), lambda z, t: unet(z, t, nothing), GUIDANCE)


def tiles(seed: int, count: int = 4) -> Tensor:
    """Noise that was drawn tile by tile, as a square canvas (3, H, W)."""
    return rearrange(noise(seed, count, 3, SIDE, SIDE), "(p q) c h w -> c (p h) (q w)", q=round(count**0.5)).double()


def coarse_canvas() -> Canvas:
    context = small_summarizer()([noise(6001, 64, 2, 2).double()], torch.tensor([1]))
    unet = small_unet(averaged=True)
    return Canvas(
        steps=released_steps(600, 150, ALPHA_BAR),
        denoiser=lambda places: under(unet, context),
        side=SIDE,
        noise=lambda step: tiles(6103 + 2 * step, 1),
    )


def test_the_coarse_canvas_of_joint_sampling_is_the_published_one() -> None:
    states = list(denoise_canvas(tiles(6101, 1), coarse_canvas()))
    for step in (0, 1, 3):
        assert error(states[step].z_t[:, ::4, ::4], PUBLISHED[f"coarse_z_t_{step}"]) < 1e-6


def test_a_tile_held_to_it_is_the_published_one() -> None:
    """The first of four steps, two corrections, the last of 2x2 tiles."""
    unet, autoencoder = small_unet(averaged=True), small_autoencoder()
    context = small_summarizer()([noise(6001, 64, 2, 2)[:, 1:, 1:].double()], torch.tensor([0]))
    coarser = denoise_step(State.begun(tiles(6101, 1)), coarse_canvas())
    y = autoencoder.decode(coarser.z_0[None]).clamp(-1, 1)
    canvas = Canvas(
        steps=released_steps(600, 150, ALPHA_BAR)[:1],
        denoiser=lambda places: under(unet, context),
        side=SIDE,
        noise=lambda step: tiles(6102 + 2 * step),
        processes=Processes(lambda count: range(3, count)),
    )
    rule = Rule(operator="bicubic", inner=2, weight=0.5, zeta=0.005, denoiser="difference", delta=0.005, normalise=True)
    codec = Codec(autoencoder.decode, autoencoder.encode)
    state = denoise_step(State.begun(tiles(6100)), canvas, Constraint(lambda places: y[:, :, 128:, 128:], codec, rule))
    assert error(state.z_0[:, SIDE::4, SIDE::4], PUBLISHED["tile_z_0"]) < 1e-6
    assert error(state.z_t[:, SIDE::4, SIDE::4], PUBLISHED["tile_z_t"]) < 1e-6


def test_the_seam_repair_is_the_published_one() -> None:
    """Windows of 64 latents every 32, each conditioned on the tokens under its corner; float32 is enough here."""
    tokens, unet, summarizer = noise(7401, 64, 2, 2), small_unet().float(), small_summarizer().float()
    steps = released_steps(300, 100, ALPHA_BAR, reduced=True)

    def denoiser(places: Tensor) -> Denoiser:
        rows, cols = places.T / SIDE
        embeddings = window_embeddings(tokens, rows, cols, grid=1)
        return under(unet, summarizer(list(embeddings), torch.zeros(len(places), dtype=torch.long)))

    canvas = Canvas(
        steps=steps,
        denoiser=denoiser,
        side=SIDE,
        stride=SIDE // 2,
        noise=lambda step: noise(7411 + step, 3, 2 * SIDE, 2 * SIDE),
    )
    z_t = add_noise(0.7 * tiles(7400), tiles(7410), steps[0].a_t).float()
    *_, last = denoise_canvas(z_t, canvas)
    assert error(last.z_t[:, ::4, ::4], PUBLISHED["repaired"]) < 1e-5
